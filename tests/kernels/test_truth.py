"""The compiled scan against the reference in float64: outputs, final state and every gradient."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fwagents.kernels import ScanOptions
from tests.kernels.problems import (
    distance,
    inner_steps_taken,
    nudged,
    poison,
    random_scan,
    results,
    torch_threads,
    with_nan,
)

TOLERANCE = 1e-4
# Beyond this length rounding errors grow, and the limit is the error of the same sums in plain float32.
LONG = 300


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    poison(monkeypatch)


def check(scan):
    truth = results(scan, "torch", torch.float64)
    allowed = dict.fromkeys(truth, TOLERANCE)
    if len(scan.inputs.drive) > LONG:
        own = distance(results(scan, "torch"), truth)
        allowed = {name: max(TOLERANCE, 2 * error) for name, error in own.items()}
    for name, error in distance(results(scan, "numba"), truth).items():
        assert error <= allowed[name], (name, error, allowed[name])


OPTIONS = st.builds(
    ScanOptions,
    inner_steps=st.integers(1, 3),
    decay=st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]),
    fast_lr=st.sampled_from([0.0, 0.1, 0.5]),
    sustained=st.booleans(),
    normalize_storage=st.booleans(),
    norm_eps=st.sampled_from([1e-5, 1e-3]),  # otherwise drawn from all floats, and float32 has no 5e-324
    tolerance=st.none(),  # two float32 programs can differ for a row whose change equals the tolerance
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    T=st.sampled_from([1, 2, 7, 16, 17, 33, 63, 130, 257]),
    B=st.integers(1, 6),
    R=st.sampled_from([2, 5, 15, 16, 20, 33, 37, 50, 101]),
    options=OPTIONS,
    norm=st.sampled_from(["none", "shared", "each"]),
    state=st.booleans(),
    starts=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    width=st.sampled_from([0, 1, 7, 16, 33, 100]),
    seed=st.integers(0, 1000),
)
def test_drawn(T, B, R, options, norm, state, starts, width, seed):
    norms = {"none": 0, "shared": 1, "each": options.inner_steps}[norm]
    if not norms:  # nothing bounds the state
        options = options._replace(fast_lr=options.fast_lr * 0.02)
    scan = random_scan(T, B, R, options, norms=norms, state=state, starts=starts, width=width, seed=seed)
    truth, moved = (results(s, "torch", torch.float64) for s in (scan, nudged(scan)))
    # Near a ReLU's kink two float32 programs can differ; such data is sensitive in float64 as well.
    assume(max(distance(moved, truth).values()) < TOLERANCE / 4)
    check(scan)


@pytest.mark.parametrize("starts", [0.0, 0.01])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("R", [20, 37, 101])
@pytest.mark.parametrize("width", [0, 9])
def test_folded(R, state, starts, width):
    """The sequence is so long that A is formed, carried and formed again, with the projection inside and outside."""
    check(random_scan(257, 5, R, ScanOptions(decay=0.9), state=state, starts=starts, width=width, seed=R))


def test_folded_without_a_norm():
    check(random_scan(257, 4, 20, ScanOptions(decay=0.9, fast_lr=0.002), norms=0, width=9))


@pytest.mark.parametrize("normalize_storage", [False, True])
def test_folded_with_every_option(normalize_storage):
    options = ScanOptions(2, 0.9, 0.2, sustained=False, normalize_storage=normalize_storage)
    check(random_scan(130, 6, 20, options, norms=2, starts=0.01))


def test_longer():
    check(random_scan(700, 3, 37, ScanOptions(decay=0.9), width=12))


def test_both_references_agree():
    scan = random_scan(63, 4, 20, ScanOptions(inner_steps=2), starts=0.1)
    truth = results(scan, "attention", torch.float64)
    assert max(distance(results(scan, "numba"), truth).values()) < TOLERANCE


@pytest.mark.parametrize(
    "scan",
    [
        random_scan(17, 6, 20, ScanOptions(8, 0.9, 0.4, tolerance=0.1), width=9),
        random_scan(63, 5, 37, ScanOptions(4, 0.9, 0.4, tolerance=0.4), norms=4, starts=0.05),
        random_scan(130, 5, 20, ScanOptions(8, 0.9, 0.4, True, True, tolerance=0.1), starts=0.01, width=9, seed=2),
        random_scan(130, 6, 20, ScanOptions(8, 0.9, 0.4, sustained=False, tolerance=0.1), width=7, seed=2),
        random_scan(257, 3, 50, ScanOptions(6, 0.9, 0.4, tolerance=0.1), starts=0.01, width=7, seed=1),
        random_scan(63, 4, 20, ScanOptions(8, 0.9, 0.002, tolerance=0.01), norms=0, seed=1),
    ],
    ids=["short", "a norm each", "normalized", "identity", "folded", "no norm"],
)
def test_adaptive(scan):
    """No row's change is within rounding of the tolerance, so all backends must settle at the same step."""
    taken, less, more = (inner_steps_taken(scan, scan.options.tolerance * factor) for factor in (1.0, 0.9999, 1.0001))
    assert torch.equal(less, more)
    assert len(taken.unique()) > 2
    check(scan)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads(threads):
    scan = random_scan(64, 21, 64, starts=0.05, width=20)
    one = results(scan, "numba")
    with torch_threads(threads):
        many = results(scan, "numba")
    assert max(distance(many, one).values()) < TOLERANCE


def test_zero_state_is_no_state():
    scan = random_scan(70, 3, 20, state=False)
    zeros = scan._replace(inputs=scan.inputs._replace(h=torch.zeros(3, 20), A=torch.zeros(3, 20, 20)))
    left, right = results(scan, "numba"), results(zeros, "numba")
    assert max(distance(left, {name: right[name] for name in left}).values()) < TOLERANCE


@pytest.mark.parametrize("options", [ScanOptions(), ScanOptions(inner_steps=4, tolerance=0.1)])
def test_nan_stays_in_its_episode_and_fills_it(options):
    scan = with_nan(random_scan(40, 3, 20, options), step=5, row=1, end=20)
    found, truth = (results(scan, backend) for backend in ("numba", "torch"))
    for name in ("y", "h", "A"):
        assert torch.equal(found[name].isnan(), truth[name].isnan())
    assert found["y"][5:20, 1].isnan().all()
    assert found["y"][20:].isfinite().all()


def test_arguments_need_not_be_contiguous():
    scan = random_scan(9, 4, 20, starts=0.1)
    inputs = scan.inputs
    strided = scan._replace(
        inputs=inputs._replace(
            drive=inputs.drive.transpose(0, 1).contiguous().transpose(0, 1),
            weight_hh=inputs.weight_hh.t().contiguous().t(),
            start=inputs.start.t().contiguous().t(),
        ),
        cotangents=tuple(
            c.expand(2, *c.shape)[0].transpose(0, 1).contiguous().transpose(0, 1) for c in scan.cotangents
        ),
    )
    assert max(distance(results(strided, "numba"), results(scan, "numba")).values()) == 0
