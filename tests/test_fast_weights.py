"""The fast-weight cell against the paper's equations: by hand, in plain Python, and matrix against attention form."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fwagents.cores import FastWeights, FastWeightsState

from .core_family import randomised

pytestmark = pytest.mark.usefixtures("float64")


def constant(core: FastWeights, *, w: float, c: float) -> FastWeights:
    with torch.no_grad():
        core.weight_hh.copy_(w * torch.eye(core.hidden_size))
        core.weight_ih.fill_(c)
    return core


def test_golden_values_without_layer_norm():
    """One unit, W = 1/2, C = 1, decay 1/2, fast_lr 1, inputs 1, 1; every number is computed by hand.

    t=1: boundary 1, A(0) = 0, so h = 1 and A = 1.
    t=2: boundary 1/2 + 1 = 3/2; h_0 = 3/2; h_1 = 3/2 + 1 * 3/2 = 3; A = 1/2 + 9 = 19/2.
    With two inner steps h_2 = 3/2 + 1 * 3 = 9/2, and A = 1/2 + 81/4 = 83/4.
    """
    x = torch.ones(2, 1, 1)
    one = constant(FastWeights(1, 1, decay=0.5, fast_lr=1.0, layer_norm=False), w=0.5, c=1.0)
    y, state = one(x)
    assert y.flatten().tolist() == [1.0, 3.0]
    assert state.A.item() == 9.5
    two = constant(FastWeights(1, 1, decay=0.5, fast_lr=1.0, layer_norm=False, inner_steps=2), w=0.5, c=1.0)
    y, state = two(x)
    assert y.flatten().tolist() == [1.0, 4.5]
    assert state.A.item() == 20.75


def test_golden_values_of_method_2():
    """The case above with the identity as boundary: t=2: h_0 = 3/2; h_1 = 3/2 + 1 * 3/2 = 3; h_2 = 3 + 3 = 6."""
    x = torch.ones(2, 1, 1)
    core = FastWeights(1, 1, decay=0.5, fast_lr=1.0, layer_norm=False, inner_steps=2, boundary="identity")
    y, _ = constant(core, w=0.5, c=1.0)(x)
    assert y.flatten().tolist() == [1.0, 6.0]


def test_golden_values_with_layer_norm():
    """Two units, C = (1, 3), W = 0, one step: boundary (1, 3) has mean 2 and deviation 1, so LN gives (-1, 1).

    After gain (2, 2) and bias (0, 1): (-2, 3), and the ReLU leaves h = (0, 3), A = fast_lr (0, 0; 0, 9).
    """
    core = constant(FastWeights(1, 2, fast_lr=0.5), w=0.0, c=1.0)
    core.options = core.options._replace(norm_eps=0.0)
    with torch.no_grad():
        core.weight_ih.copy_(torch.tensor([[1.0], [3.0]]))
        core.norm.weight.fill_(2.0)
        core.norm.bias.copy_(torch.tensor([[0.0, 1.0]]))
    y, state = core(torch.ones(1, 1, 1))
    assert y.flatten().tolist() == [0.0, 3.0]
    assert state.A.flatten().tolist() == [0.0, 0.0, 0.0, 4.5]


def test_normalized_storage_writes_the_direction():
    """h = (3, 4) has length 5, so A = fast_lr (9, 12; 12, 16) / 25."""
    core = constant(FastWeights(1, 2, fast_lr=1.0, layer_norm=False, normalize_storage=True), w=0.0, c=1.0)
    with torch.no_grad():
        core.weight_ih.copy_(torch.tensor([[3.0], [4.0]]))
    y, state = core(torch.ones(1, 1, 1))
    assert y.flatten().tolist() == [3.0, 4.0]
    torch.testing.assert_close(state.A[0], torch.tensor([[9.0, 12.0], [12.0, 16.0]]) / 25)


def plain_python(core: FastWeights, inputs: list[list[float]]) -> list[list[float]]:
    """Compute equations 1-5 of the paper with Python floats, independently of the package."""
    R = core.hidden_size
    W, C, b = core.weight_hh.tolist(), core.weight_ih.tolist(), core.bias.tolist()
    gain, shift = core.norm.weight.tolist(), core.norm.bias.tolist()
    eta, lam, steps = core.options.fast_lr, core.options.decay, core.options.inner_steps
    h, A, out = [0.0] * R, [[0.0] * R for _ in range(R)], []
    for x in inputs:
        z = [
            sum(W[i][j] * h[j] for j in range(R)) + sum(C[i][j] * x[j] for j in range(len(x))) + b[i] for i in range(R)
        ]
        s = [max(0.0, v) for v in z]
        for step in range(steps):
            v = [z[i] + sum(A[i][j] * s[j] for j in range(R)) for i in range(R)]
            mean = sum(v) / R
            deviation = math.sqrt(sum((u - mean) ** 2 for u in v) / R + core.options.norm_eps)
            g, d = gain[min(step, len(gain) - 1)], shift[min(step, len(shift) - 1)]
            s = [max(0.0, g[i] * (v[i] - mean) / deviation + d[i]) for i in range(R)]
        h = s
        A = [[lam * A[i][j] + eta * h[i] * h[j] for j in range(R)] for i in range(R)]
        out.append(h)
    return out


@pytest.mark.parametrize("backend", ["torch", "attention"])
@pytest.mark.parametrize("inner_steps", [1, 2, 5])
@pytest.mark.parametrize("norm_per_step", [False, True])
def test_two_steps_in_plain_python(inner_steps, norm_per_step, backend):
    core = FastWeights(3, 4, inner_steps=inner_steps, norm_per_step=norm_per_step, backend=backend)
    randomised(core, 0.5)
    x = torch.randn(2, 1, 3)
    y, _ = core(x)
    torch.testing.assert_close(y[:, 0], torch.tensor(plain_python(core, x[:, 0].tolist())))


options = st.fixed_dictionaries(
    {
        "inner_steps": st.integers(1, 4),
        "decay": st.floats(0.0, 1.0),
        "fast_lr": st.floats(0.0, 0.3),
        "layer_norm": st.booleans(),
        "norm_per_step": st.booleans(),
        "boundary": st.sampled_from(["sustained", "identity"]),
        "normalize_storage": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    options=options,
    T=st.integers(1, 12),
    B=st.integers(1, 4),
    R=st.integers(2, 9),
    start_rate=st.sampled_from([0.0, 0.3, 1.0]),
    zero_state=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_matrix_form_equals_attention_form(options, T, B, R, start_rate, zero_state, seed):
    """Compare outputs, final state and every gradient, with starts and from a non-zero state."""
    torch.manual_seed(seed)
    core = FastWeights(3, R, backend="torch", **options)
    randomised(core, 0.2)
    x, start = torch.randn(T, B, 3, requires_grad=True), torch.rand(T, B) < start_rate
    scale = 0.0 if zero_state else 0.3
    state = FastWeightsState(*((scale * torch.randn_like(leaf)).requires_grad_() for leaf in core.initial_state(B)))
    cotangents = [torch.randn(T, B, R), torch.randn(B, R), torch.randn(B, R, R)]
    results = []
    for backend in ("torch", "attention"):
        core.backend = backend
        y, last = core(x, state, start)
        outputs = [y, *last]
        # Without a layer norm the reads of a memory can grow until they overflow, and then nothing is equal.
        assume(all(o.abs().max() < 1e6 for o in outputs))
        loss = sum((o * c).sum() for o, c in zip(outputs, cotangents, strict=True))
        wanted = [x, *state, *core.parameters()]
        results.append((outputs, torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-7, atol=1e-8)


def test_the_read_is_attention_to_the_past():
    """Equation 4: A h_s is the sum over the past of fast_lr decay^age h(tau) [h(tau) . h_s]."""
    core = FastWeights(3, 5, decay=0.8, fast_lr=0.4)
    y, state = core(torch.randn(7, 2, 3))
    s = torch.randn(2, 5)
    attended = sum(0.4 * 0.8 ** (6 - t) * y[t] * (y[t] * s).sum(-1, keepdim=True) for t in range(7))
    torch.testing.assert_close((state.A @ s.unsqueeze(-1)).squeeze(-1), attended)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inner_steps": 3, "norm_per_step": True},
        {"layer_norm": False, "fast_lr": 0.1},
        {"boundary": "identity"},
        {"inner_steps": 0},
        {"inner_steps": "adaptive"},
    ],
    ids=str,
)
@pytest.mark.parametrize("normalize_storage", [False, True])
def test_settling_on_chosen_states_is_a_step(options, normalize_storage):
    """With a sequence's stored states, oldest first, and its next boundary, ``settle`` gives the next step."""
    core = FastWeights(3, 5, decay=0.7, normalize_storage=normalize_storage, backend="torch", **options)
    randomised(core, 0.2)
    x = torch.randn(6, 2, 3)
    y, _ = core(x)
    for t in range(6):
        before = y[t - 1] if t else torch.zeros(2, 5)
        boundary = before @ core.weight_hh.T + x[t] @ core.weight_ih.T + core.bias
        torch.testing.assert_close(core.settle(boundary, y[:t]), y[t])
    torch.testing.assert_close(core.settle(boundary), core.settle(boundary, y[:0]))


def test_initial_weights_are_the_papers():
    core = FastWeights(40, 25)
    assert torch.equal(core.weight_hh, 0.05 * torch.eye(25))
    assert core.weight_ih.abs().max() <= 25**-0.5
    assert core.weight_ih.abs().max() > 0.9 * 25**-0.5
    assert core.bias.abs().max() == 0
