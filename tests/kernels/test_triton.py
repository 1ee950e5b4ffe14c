"""The scan in Triton against the reference in float64, on a GPU or else in Triton's interpreter, which is slow."""

import os
import subprocess
import sys

import pytest
import torch

from fwagents.cores import CORES, FastWeights
from fwagents.kernels import ScanOptions, fast_weight_scan
from fwagents.kernels.cpu import scan as cpu
from fwagents.kernels.gpu import scan as gpu
from fwagents.sb3 import MemoryPPO
from tests.kernels.problems import changed, distance, poison, random_scan, results, with_nan

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    poison(monkeypatch)


@pytest.fixture
def small(monkeypatch):
    """Set chunks of 4 steps and blocks of 16 rows of a matrix, so that small scans have several of both."""

    def plan(steps, size):
        return gpu.Plan(chunk=4, padded=32, block=16, warps=1)

    monkeypatch.setattr(gpu, "plan", plan)


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


def test_a_size_that_streams():
    """There are two chunks, and W and A do not fit into registers."""
    check(random_scan(34, 1, 160, width=3))


@pytest.mark.usefixtures("small", "float64")
def test_whatever_the_default_dtype():
    check(random_scan(6, 2, 20, starts=0.1))


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
    scan = with_nan(random_scan(9, 2, 20), step=2, row=1, end=6)
    found, truth = results(scan, "triton", device=DEVICE), results(scan, "torch")
    for name in ("y", "h", "A", "ddrive", "dA"):
        assert torch.equal(found[name].isnan().cpu(), truth[name].isnan()), name
    assert found["y"][2:6, 1].isnan().all()
    assert found["y"][6:].isfinite().all()


def test_a_core_runs_it():
    """Compare outputs, state and gradients of the core, with episodes that begin inside and a carried state."""
    found, truth = (FastWeights(3, 8, backend=backend).to(DEVICE) for backend in ("triton", "torch"))
    found.load_state_dict(truth.state_dict())
    x, start = torch.randn(4, 2, 3, device=DEVICE), torch.tensor([[False, True]] * 4, device=DEVICE)
    outcomes = []
    for core in (found, truth):
        y, state = core(x[:2], start=start[:2])
        z, state = core(x[2:], state)
        (y.sum() + z.square().sum() + state.A.sum()).backward()
        outcomes.append([y, z, *state, *(p.grad for p in core.parameters())])
    torch.testing.assert_close(*outcomes, rtol=1e-4, atol=1e-5)


def test_no_trace_and_the_same_without_gradients():
    scan = random_scan(3, 1, 8)
    inputs = changed(scan.inputs, lambda x: x.to(DEVICE))
    *found, trace = torch.ops.fwagents.fast_weight_scan_cuda(*inputs, *scan.options, False)
    *truth, _ = torch.ops.fwagents.fast_weight_scan_cuda(*inputs, *scan.options, True)
    assert trace.numel() == 0
    assert all(map(torch.equal, found, truth))


@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_without_a_graph_break():
    core = FastWeights(3, 8, backend="triton").to(DEVICE)
    x = torch.randn(2, 1, 3, device=DEVICE)
    y, _ = core(x)
    (expected,) = torch.autograd.grad(y.square().sum(), core.weight_hh)
    z, _ = torch.compile(core, fullgraph=True, backend="aot_eager")(x)
    (found,) = torch.autograd.grad(z.square().sum(), core.weight_hh)
    torch.testing.assert_close((z, found), (y, expected))


def test_second_derivatives_come_from_the_reference():
    def penalty(backend):
        inputs = changed(random_scan(3, 1, 8, width=2).inputs, lambda x: x.to(DEVICE).requires_grad_())
        y, _, _ = fast_weight_scan(inputs, backend=backend)
        first = torch.autograd.grad(y.square().sum(), inputs.weight_hh, create_graph=True)[0]
        return {"d": torch.autograd.grad(first.square().sum(), inputs.drive)[0]}

    assert max(distance(penalty("triton"), penalty("torch")).values()) < 1e-4


@pytest.mark.parametrize(
    ("size", "change"),
    [
        (5, lambda x: x.double()),
        (5, lambda x: x.half()),
        (5, lambda x: x.to("meta")),
        (gpu.LARGEST + 1, lambda x: x),
    ],
    ids=["float64", "float16", "another device", "too large"],
)
def test_what_is_not_covered_goes_to_the_reference(size, change, monkeypatch):
    monkeypatch.setattr(gpu, "scan", None)
    inputs = changed(random_scan(1, 1, size).inputs, change)
    y, _, _ = fast_weight_scan(inputs, backend="triton")
    assert y.dtype == inputs.drive.dtype


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_by_default_a_gpu_takes_it_and_a_cpu_does_not(backend, monkeypatch):
    monkeypatch.delenv("FWAGENTS_BACKEND", raising=False)
    used = []
    for module, name in ((cpu, "numba"), (gpu, "triton")):
        monkeypatch.setattr(module, "scan", lambda *_, name=name: used.append(name))
    fast_weight_scan(changed(random_scan(1, 1, 5).inputs, lambda x: x.to(DEVICE)), backend=backend)
    assert used == ["numba" if backend == "auto" and DEVICE == "cpu" else "triton"]


@pytest.mark.parametrize(("size", "dtype"), [(20, "float32"), (20, "bfloat16"), (200, "float32")])
def test_kernels_compile_for_a_gpu(size, dtype, tmp_path):
    """The kernels compile to machine code for a Hopper, without one; the interpreter ignores a GPU's limits."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.kernels.ahead_of_time", str(size), "3", dtype]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert [line.split(":")[0] for line in found.stdout.splitlines()] == ["forward", "backward"] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("starts", [0.0, 0.02])
@pytest.mark.parametrize("T", [16, 130, 300])
@pytest.mark.parametrize("R", [20, 64, 128, 200, 256, 512])
def test_sizes_of_a_gpu(T, R, starts):
    check(random_scan(T, 3, R, ScanOptions(decay=0.9), starts=starts, state=bool(starts), width=9))


@pytest.mark.gpu
@pytest.mark.parametrize("core", CORES)
def test_agents_train_on_a_gpu(core):
    model = MemoryPPO("MemoryPolicy", "PartialCatch-v0", n_steps=15, policy_kwargs={"core": core}, device="cuda")
    begun = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(30)
    trained = list(model.policy.parameters())
    assert all(parameter.is_cuda and parameter.isfinite().all() for parameter in trained)
    assert any(not torch.equal(new, old) for new, old in zip(trained, begun, strict=True))


@pytest.mark.gpu
def test_a_large_batch_twice_is_the_same_to_the_bit():
    first, second = (results(random_scan(100, 600, 64, starts=0.05), "auto", device="cuda") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
def test_autocast_changes_nothing():
    core, x = FastWeights(9, 64).cuda(), torch.randn(5, 3, 9, device="cuda")
    y, _ = core(x)
    with torch.autocast("cuda", torch.bfloat16):
        z, _ = core(x)
        z.sum().backward()
    assert torch.equal(y, z)


@pytest.mark.gpu
def test_a_cuda_graph_captures_it():
    core = FastWeights(9, 64).cuda()
    x = torch.randn(130, 5, 9, device="cuda")
    start = torch.rand(130, 5, device="cuda") < 0.05

    def train():
        core.zero_grad(set_to_none=True)
        y, _ = core(x, start=start)
        y.square().sum().backward()
        return y

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        train()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = train()
    gradient = core.weight_hh.grad
    x.copy_(torch.randn_like(x))
    graph.replay()
    found, dweight = captured.clone(), gradient.clone()
    torch.testing.assert_close((found, dweight), (train(), core.weight_hh.grad))
