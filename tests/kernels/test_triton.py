"""The scan in Triton against the reference in float64, on a GPU or else in Triton's interpreter, which is slow."""

import subprocess
import sys

import pytest
import torch

from fwagents.cores import FastWeights
from fwagents.kernels import ScanOptions, cuda, fast_weight_scan, operator
from tests.kernels.problems import distance, random_scan, results

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _poisoned():
    """Fresh memory holds NaN, so that nothing can be right because it happened to be zero."""
    torch.use_deterministic_algorithms(DEVICE == "cpu")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small(monkeypatch):
    """Chunks of 4 steps, and 16 lines of a matrix at a time, so that small scans have several of both."""

    def plan(steps, size):
        return cuda.Plan(chunk=4, padded=32, block=16, warps=1)

    monkeypatch.setattr(cuda, "plan", plan)


def check(scan, tolerance=1e-4):
    truth = results(scan, "torch", torch.float64)
    for name, error in distance(results(scan, "triton", device=DEVICE), truth).items():
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize(
    "scan",
    [
        random_scan(3, 2, 20, starts=0.2, width=7),
        random_scan(2, 1, 5, state=False),
        random_scan(1, 2, 33, ScanOptions(normalize_storage=True)),
    ],
    ids=["a start", "no state", "normalised"],
)
def test_one_chunk(scan):
    check(scan)


@pytest.mark.parametrize(
    "scan",
    [
        random_scan(9, 2, 20, ScanOptions(decay=0.9), starts=0.1, width=5),
        random_scan(6, 2, 17, ScanOptions(2, 0.9, 0.3, False, True), norms=2, state=False),
        random_scan(5, 2, 20, ScanOptions(3, 0.9, 0.01), norms=0, starts=0.3),
        random_scan(5, 2, 20, ScanOptions(decay=0.0)),
    ],
    ids=["default", "every option", "no norm", "no decay"],
)
@pytest.mark.usefixtures("small")
def test_several_chunks(scan):
    check(scan)


@pytest.mark.usefixtures("small")
def test_adaptive():
    scan = random_scan(6, 2, 20, ScanOptions(4, 0.9, 0.4, tolerance=0.3), norms=4, starts=0.1)
    check(scan)


@pytest.mark.usefixtures("small")
def test_bfloat16_is_as_close_as_the_reference_in_bfloat16():
    scan = random_scan(6, 2, 20, ScanOptions(decay=0.9), starts=0.1, width=5)
    truth = results(scan, "torch", torch.float64)
    found = results(scan, "triton", torch.bfloat16, DEVICE)
    assert {x.dtype for x in found.values()} == {torch.bfloat16}
    plain = distance(results(scan, "torch", torch.bfloat16), truth)
    for name, error in distance(found, truth).items():
        assert error <= 1.5 * plain[name] + 2e-3, (name, error, plain[name])


@pytest.mark.usefixtures("small")
def test_nan_stays_in_its_episode_and_fills_it():
    scan = random_scan(9, 2, 20)
    start = torch.zeros(9, 2, dtype=torch.bool)
    start[6, 1] = True
    scan.drive[2, 1, 3] = float("nan")
    found, truth = (results(scan._replace(start=start), backend) for backend in ("triton", "torch"))
    for name in ("y", "h", "A", "ddrive", "dA"):
        assert torch.equal(found[name].isnan(), truth[name].isnan()), name
    assert found["y"][2:6, 1].isnan().all()
    assert found["y"][6:].isfinite().all()
