"""The compiled scan as a torch operator, and the choice of the backend."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fwagents.cores import FastWeights
from fwagents.kernels import ScanInputs, ScanOptions, chosen_backend, fast_weight_scan
from fwagents.kernels.cpu import scan as cpu
from tests.kernels.problems import changed, distance, random_scan, results


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("options", [ScanOptions(), ScanOptions(inner_steps=2, normalize_storage=True, tolerance=0.1)])
def test_opcheck(options, state):
    scan = random_scan(5, 3, 20, options, state=state, starts=0.2)
    inputs = changed(scan.inputs, Tensor.requires_grad_)
    torch.library.opcheck(torch.ops.fwagents.fast_weight_scan, (*inputs, *options, True))


@pytest.mark.parametrize("wants_x", [False, True])
def test_opcheck_with_the_input_weights(wants_x):
    scan = random_scan(5, 3, 20, starts=0.2, width=7)
    inputs = scan.inputs._replace(
        drive=scan.inputs.drive.requires_grad_(wants_x),
        weight_ih=scan.inputs.weight_ih.requires_grad_(),
        bias=scan.inputs.bias.requires_grad_(),
    )
    torch.library.opcheck(torch.ops.fwagents.fast_weight_scan, (*inputs, *scan.options, True))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "options", [{}, {"layer_norm": False}, {"inner_steps": 0}, {"inner_steps": "adaptive"}], ids=str
)
def test_compiles_without_a_graph_break(options):
    core = FastWeights(7, 20, **options)
    x, start = torch.randn(12, 4, 7), torch.rand(12, 4) < 0.2
    y, _ = core(x, None, start)
    (expected,) = torch.autograd.grad(y.square().sum(), core.weight_hh)
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    z, _ = compiled(x, None, start)
    (found,) = torch.autograd.grad(z.square().sum(), core.weight_hh)
    assert torch.equal(y, z)
    assert torch.allclose(found, expected)


# The rate is small: many reads at a large rate amplify rounding too much for a second derivative in float32.
@pytest.mark.parametrize("options", [{}, {"inner_steps": 0}, {"inner_steps": "adaptive", "fast_lr": 0.1}], ids=str)
def test_second_derivatives_come_from_the_reference(options):
    def penalty(backend, dtype):
        core = FastWeights(5, 20, backend=backend, **options)
        torch.manual_seed(0)
        core.reset_parameters()
        y, _ = core.to(dtype)(torch.randn(6, 3, 5).to(dtype))
        first = torch.autograd.grad(y.square().sum(), core.weight_hh, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), core.weight_hh)[0]

    truth = penalty("torch", torch.float64)
    assert max(distance({"d": penalty("numba", torch.float32)}, {"d": truth}).values()) < 1e-4


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("options", [{"layer_norm": False}, {"inner_steps": "adaptive"}], ids=str)
def test_the_reference_compiles_without_a_graph_break(options):
    core = FastWeights(7, 20, backend="torch", **options)
    x = torch.randn(3, 4, 7)
    compiled = torch.compile(core, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x)[0], core(x)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_not_covered_goes_to_the_reference(dtype, monkeypatch):
    monkeypatch.setattr(cpu, "scan", None)
    y, _, _ = fast_weight_scan(changed(random_scan(3, 2, 5).inputs, lambda x: x.to(dtype)), backend="numba")
    assert y.dtype == dtype


def test_no_trace_without_gradients():
    scan = random_scan(3, 2, 5)
    *_, trace = torch.ops.fwagents.fast_weight_scan(*scan.inputs, *scan.options, False)
    assert trace.numel() == 0


def test_gradients_only_where_asked():
    inputs = random_scan(5, 2, 20).inputs
    drive = inputs.drive.requires_grad_()
    y, _, _ = fast_weight_scan(inputs, backend="numba")
    y.sum().backward()
    truth, _, _ = fast_weight_scan(inputs, backend="torch")
    torch.testing.assert_close(drive.grad, torch.autograd.grad(truth.sum(), drive)[0], rtol=1e-4, atol=1e-5)
    A = inputs.A.requires_grad_()
    found, truth = (
        torch.autograd.grad(fast_weight_scan(inputs, backend=backend).A.sum(), A)[0] for backend in ("numba", "torch")
    )
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["numba", "triton", "torch", "attention"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drive": torch.randn(5, 3, 7)}, r"drive has shape \(5, 3, 7\), expected \(5, 3, 20\)"),
        ({"drive": torch.randn(5, 3)}, r"drive has shape \(5, 3\), expected three dimensions"),
        ({"weight_hh": torch.randn(20, 3)}, r"weight_hh has shape \(20, 3\), expected \(20, 20\)"),
        ({"h": torch.randn(1, 20)}, r"h has shape \(1, 20\), expected \(3, 20\)"),
        ({"A": torch.randn(3, 20)}, r"A has shape \(3, 20\), expected \(3, 20, 20\)"),
        ({"start": torch.zeros(1, 3, dtype=torch.bool)}, r"start has shape \(1, 3\), expected \(5, 3\)"),
        ({"start": torch.zeros(5, 3)}, "start is torch.float32 on cpu, expected torch.bool on cpu"),
        ({"gain": torch.randn(20)}, "gain has 20 rows, expected 1 or inner_steps, which is 1"),
        ({"shift": torch.randn(1, 3)}, r"shift has shape \(1, 3\), expected \(1, 20\)"),
        ({"shift": None}, "gain and shift go together"),
        ({"bias": torch.randn(20)}, "weight_ih and bias go together"),
        ({"taken": torch.zeros(5)}, r"taken has shape \(5,\), expected \(5, 3\)"),
    ],
)
def test_what_does_not_fit_is_named_before_it_is_read(backend, change, message):
    tensors = random_scan(5, 3, 20).inputs._asdict() | change
    taken = tensors.pop("taken", None)
    with pytest.raises(ValueError, match=message):
        fast_weight_scan(ScanInputs(**tensors), backend=backend, taken=taken)


def test_fake_tensors_are_never_read():
    core = FastWeights(7, 20)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y, state = core(mode.from_tensor(torch.randn(5, 3, 7)))
    assert (y.shape, state.A.shape) == ((5, 3, 20), (3, 20, 20))


def test_transforms_of_torch_func_go_to_the_reference():
    core = FastWeights(7, 20)
    parameters, x = dict(core.named_parameters()), torch.randn(5, 3, 7)

    def loss(parameters):
        return torch.func.functional_call(core, parameters, (x,))[0].square().sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    torch.testing.assert_close(found, {n: p.grad for n, p in core.named_parameters()}, rtol=1e-3, atol=1e-4)


def test_backward_twice_over_a_kept_graph():
    inputs = random_scan(5, 2, 20).inputs
    drive = inputs.drive.requires_grad_()
    y, _, _ = fast_weight_scan(inputs)
    first = torch.autograd.grad(y.sum(), drive, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y.sum(), drive)[0])


def test_variable_overrides_auto_only(monkeypatch):
    monkeypatch.setenv("FWAGENTS_BACKEND", "attention")
    assert chosen_backend("auto") == "attention"
    assert chosen_backend("torch") == "torch"
    monkeypatch.setenv("FWAGENTS_BACKEND", "")
    assert (chosen_backend("auto"), chosen_backend("auto", "cuda")) == ("numba", "triton")
    monkeypatch.setenv("FWAGENTS_BACKEND", "cuda")
    with pytest.raises(ValueError, match="FWAGENTS_BACKEND is 'cuda', expected one of auto, numba"):
        results(random_scan(2, 1, 5), "auto")


def test_numba_is_not_imported_with_the_cores():
    code = "import sys, fwagents.cores; print('numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
