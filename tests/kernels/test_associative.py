"""The compiled scan of the associative LSTM against its torch form in float64, and the choice between them."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from fwagents.cores import AssociativeLSTM, AssociativeLSTMState
from fwagents.cores.associative_lstm import torch_form
from fwagents.kernels.associative import scan as associative
from tests.kernels.problems import distance

NAMES = ("x", "h", "c", "weight_ih", "weight_hh", "bias")


def problem(T, B, D=3, H=6, copies=2, heads=2):
    """Return a scan's arguments, with keys and values on both sides of the unit circle, and its results' gradients."""
    core = AssociativeLSTM(D, H, num_copies=copies, num_heads=heads)
    weights = [(3 * p).detach() for p in (core.weight_ih, core.weight_hh, core.bias)]
    tensors = torch.randn(T, B, D), torch.randn(B, H), torch.randn(B, copies, H), *weights
    cotangents = torch.randn(T, B, H), torch.randn(B, H), torch.randn(B, copies, H)
    return heads, core.permutations, tensors, cotangents


def results(run, heads, permutations, tensors, cotangents, dtype=torch.float32, wanted=NAMES):
    """Return outputs, final state and the wanted gradients, by name."""
    named = {name: x.detach().to(dtype).requires_grad_(name in wanted) for name, x in zip(NAMES, tensors, strict=True)}
    out = run(heads, permutations, *named.values())
    pairs = [(o, d.to(dtype)) for o, d in zip(out, cotangents, strict=True) if d is not None]
    gradients = torch.autograd.grad([o for o, _ in pairs], [named[n] for n in wanted], [d for _, d in pairs])
    return dict(zip("yhc", out, strict=True)) | {f"d{n}": g for n, g in zip(wanted, gradients, strict=True)}


def compiled(heads, permutations, *tensors):
    return associative.scan(torch_form, heads, permutations, *tensors)


def check(arguments, cotangents, **kwargs):
    found = results(compiled, *arguments, cotangents, **kwargs)
    truth = results(torch_form, *arguments, cotangents, dtype=torch.float64, **kwargs)
    apart = distance(found, truth)
    assert max(apart.values()) < 1e-4, apart


@pytest.mark.parametrize(
    ("T", "B", "H", "copies", "heads"),
    [(1, 1, 2, 1, 1), (7, 3, 10, 4, 3), (5, 16, 6, 1, 2), (4, 17, 14, 3, 1), (5, 37, 6, 4, 3), (1, 8, 6, 2, 2)],
)
def test_equals_the_torch_form(T, B, H, copies, heads):
    """Sizes stay small: where rounding takes a modulus across 1, the derivative of ``bound`` jumps."""
    *arguments, cotangents = problem(T, B, 5, H, copies, heads)
    check(arguments, cotangents)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_gradient_at_one_of_the_results_alone(given):
    *arguments, cotangents = problem(6, 5)
    check(arguments, [d if i == given else None for i, d in enumerate(cotangents)])


@pytest.mark.parametrize("wanted", [("x",), ("weight_ih", "weight_hh", "bias"), ("h",), ("c", "bias")])
def test_gradients_only_where_asked(wanted):
    *arguments, cotangents = problem(6, 5)
    check(arguments, cotangents, wanted=wanted)


def test_gradcheck():
    """Compare with finite differences of the compiled scan itself, within float32 precision."""
    heads, permutations, tensors, _ = problem(3, 2, D=2, H=4)
    inputs = [x.requires_grad_() for x in tensors]
    with pytest.warns(UserWarning, match="not a double precision"):
        torch.autograd.gradcheck(lambda *x: compiled(heads, permutations, *x), inputs, eps=2e-3, atol=5e-3, rtol=2e-2)


def test_without_gradients_nothing_differs():
    heads, permutations, tensors, _ = problem(9, 5)
    y = compiled(heads, permutations, *(x.clone().requires_grad_() for x in tensors))
    with torch.no_grad():
        z = compiled(heads, permutations, *(x.clone().requires_grad_() for x in tensors))
    assert not z[0].requires_grad
    assert all(map(torch.equal, y, z))
    assert all(map(torch.equal, y, compiled(heads, permutations, *tensors)))


def test_strides_do_not_matter():
    heads, permutations, tensors, cotangents = problem(6, 5)
    strided = [x.mT.contiguous().mT if x.dim() > 1 else x for x in tensors]
    check((heads, permutations.t().contiguous().t(), strided), [d.mT.contiguous().mT for d in cotangents])


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_episodes(rate):
    """Compare the core in float32 with itself in float64, with state and weights, as a stretch and step by step."""
    core = AssociativeLSTM(4, 6)
    truth = copy.deepcopy(core).double()
    start = torch.rand(20, 5) < rate
    x, state, weight = torch.randn(20, 5, 4), [torch.randn(5, 6), torch.randn(5, 4, 6)], torch.randn(20, 5, 6)

    def run(core, dtype):
        leaves = [leaf.to(dtype).requires_grad_() for leaf in (x, *state)]
        y, last = core(leaves[0], AssociativeLSTMState(*leaves[1:]), start)
        total = (y * weight).sum() + sum(leaf.square().sum() for leaf in last)
        gradients = torch.autograd.grad(total, [*leaves, *core.parameters()])
        return {str(i): found for i, found in enumerate((y, *last, *gradients))}

    assert max(distance(run(core, torch.float32), run(truth, torch.float64)).values()) < 1e-4


def test_nan_stays_in_its_row():
    heads, permutations, tensors, _ = problem(6, 5)
    x = tensors[0].clone()
    x[2, 3] = torch.nan
    found, clean = (compiled(heads, permutations, *each) for each in ((x, *tensors[1:]), tensors))
    assert found[0][2:, 3].isnan().all()
    others = [0, 1, 2, 4]
    torch.testing.assert_close(found[0][:, others], clean[0][:, others])
    torch.testing.assert_close(found[2][others], clean[2][others])


def test_backward_twice_over_a_kept_graph():
    heads, permutations, tensors, _ = problem(5, 3)
    inputs = [x.requires_grad_() for x in tensors]
    y = compiled(heads, permutations, *inputs)[0].sum()
    first = torch.autograd.grad(y, inputs, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y, inputs)))


def test_second_derivatives_come_from_the_torch_form():
    def penalty(run):
        heads, permutations, tensors, _ = problem(4, 3)
        inputs = [x.requires_grad_() for x in tensors]
        first = torch.autograd.grad(run(heads, permutations, *inputs)[0].square().sum(), inputs[-1], create_graph=True)
        return torch.autograd.grad(first[0].square().sum(), inputs)

    torch.manual_seed(0)
    found = penalty(compiled)
    torch.manual_seed(0)
    torch.testing.assert_close(found, penalty(torch_form), rtol=1e-3, atol=1e-3)


@pytest.fixture
def core():
    return AssociativeLSTM(3, 6)


def test_it_runs_by_default(core):
    y, _ = core(torch.randn(4, 2, 3))
    assert "_Scan" in y.grad_fn.name()


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(associative, "associative_kernels", SimpleNamespace)  # a namespace without kernels


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.usefixtures("uncompiled")
def test_what_is_not_covered_goes_to_the_torch_form(core, monkeypatch):
    x = torch.randn(4, 2, 3)
    with pytest.raises(AttributeError):
        core(x)
    truth, _ = copy.deepcopy(core).double()(x.double())
    assert truth.dtype == torch.float64
    torch.testing.assert_close(
        torch.func.vmap(core, in_dims=1, out_dims=1)(x.unsqueeze(2))[0].squeeze(2), truth.float()
    )
    torch.testing.assert_close(torch.compile(core, fullgraph=True, backend="eager")(x)[0], truth.float())
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(core(forward_ad.make_dual(x, torch.ones_like(x)))[0]).tangent is not None
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert core(mode.from_tensor(x))[0].shape == (4, 2, 6)
    monkeypatch.setenv("FWAGENTS_BACKEND", "torch")
    torch.testing.assert_close(core(x)[0], truth.float())
