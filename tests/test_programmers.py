"""Fast-weight programmers against their rules, step by step in plain numbers, and on cases with a known answer."""

import numpy as np
import pytest
import torch

from fwagents.cores import DeltaNet, GatedDeltaNet, SumRule
from fwagents.cores.programmer import CHUNK, Program, execute

pytestmark = pytest.mark.usefixtures("float64")

B, D = 2, 5


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def sum_rule(W, q, k, v, gates):
    """Compute the docstring's rule for one head and step, with z separate from W."""
    memory, z = W[:-1], W[-1]
    phi_q, phi_k = (np.where(p > 0, p + 1, np.exp(p)) for p in (q, k))
    memory, z = memory + np.outer(v, phi_k), z + phi_k
    return memory @ phi_q / (z @ phi_q + 1e-6), np.vstack([memory, z])


def delta_rule(W, q, k, v, gates, alpha=1.0):
    q, k, v = (p * sigmoid(p) for p in (q, k, v))
    q, k = q / np.linalg.norm(q), k / np.linalg.norm(k)
    W = alpha * W
    W = W + sigmoid(gates[0]) * np.outer(v - W @ k, k)
    return W @ q, W


def gated_delta_rule(W, q, k, v, gates):
    return delta_rule(W, q, k, v, gates, alpha=sigmoid(gates[1]))


def plain(core, rule, x, recent, W):
    """Run one row step by step, with the convolution as a sum over the last projections: x [T, D] -> y [T, H], W."""
    weight, bias, taps = (p.detach().numpy() for p in (core.projection.weight, core.projection.bias, core.taps))
    H, heads, seen, ys = core.hidden_size, core.num_heads, [*recent], []
    W = [*W]
    for x_t in x:
        projected = weight @ x_t + bias
        seen.append(projected[: 3 * H])
        mixed = sum(tap * past for tap, past in zip(taps, seen[-core.conv_size :], strict=True))
        q, k, v = mixed.reshape(3, heads, -1)
        gates = projected[3 * H :].reshape(-1, heads)
        y = []
        for head in range(heads):
            read, W[head] = rule(W[head], q[head], k[head], v[head], gates[:, head])
            y.append(read)
        ys.append(np.concatenate(y))
    return np.array(ys), np.array(W)


@pytest.mark.parametrize("steps", [1, 7, CHUNK + 9])
@pytest.mark.parametrize(("heads", "conv_size"), [(1, 4), (3, 2)])
@pytest.mark.parametrize(
    ("make", "rule"), [(SumRule, sum_rule), (DeltaNet, delta_rule), (GatedDeltaNet, gated_delta_rule)]
)
def test_equals_the_rule_in_plain_numbers(make, rule, heads, conv_size, steps):
    core = make(D, 6, num_heads=heads, conv_size=conv_size)
    x, state = torch.randn(steps, B, D), core.initial_state(B)
    state = type(state)(*(torch.rand_like(leaf) for leaf in state))  # positive, as z is
    y, last = core(x, state)
    for row in range(B):
        outputs, W = plain(core, rule, x[:, row].numpy(), state.recent[row].numpy(), state.W[row].numpy())
        np.testing.assert_allclose(y[:, row].detach().numpy(), outputs, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(last.W[row].detach().numpy(), W, rtol=1e-9, atol=1e-12)


def test_the_sum_rule_is_linear_attention():
    """Compute all pairs of steps at once: causal weights phi(k).phi(q), each row divided by its sum."""
    steps, core = 2 * CHUNK + 3, SumRule(D, 4, conv_size=2)
    x = torch.randn(steps, D)
    projected = core.projection(x)
    mixed = core.taps[1] * projected + core.taps[0] * torch.cat([torch.zeros(1, 12), projected[:-1]])
    q, k, v = mixed.chunk(3, dim=1)
    weights = (torch.where(q > 0, q + 1, q.exp()) @ torch.where(k > 0, k + 1, k.exp()).T).tril()
    expected = weights @ v / weights.sum(1, keepdim=True)
    torch.testing.assert_close(core(x.unsqueeze(1))[0][:, 0], expected, rtol=1e-6, atol=1e-9)


def told(key, value, query, rate=1.0):
    """Return a program of one row and head from lists over its steps."""
    parts = [torch.as_tensor(part, dtype=torch.float64)[:, None, None] for part in (query, key, value)]
    return Program(*parts, rate=torch.full((len(key), 1, 1), rate))


def test_the_delta_rule_overwrites_exactly():
    """The first of two orthogonal keys is written again: rate 1 replaces its value, rate 1/2 moves it half way."""
    a, b = [0.6, 0.8], [-0.8, 0.6]
    for rate, first in [(1.0, [5.0, -1.0]), (0.5, [2.75, 0.0])]:
        program = told([a, b, a], [[1, 2], [3, 4], [5, -1]], [a, a, a], rate)
        _, W = execute(program, torch.zeros(1, 1, 2, 2))
        torch.testing.assert_close(W[0, 0] @ torch.tensor(a), torch.tensor(first))
        torch.testing.assert_close(W[0, 0] @ torch.tensor(b), rate * torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("rate", [None, 0.7])
def test_a_decay_of_what_is_stored(rate):
    """Without writes, W and its reads decay by the product of the decays."""
    decay = torch.tensor([0.9, 0.5, 1.0, 0.1])
    program = told(torch.zeros(4, 2), torch.zeros(4, 3), torch.tensor([[1.0, 0.0]] * 4))
    program = program._replace(
        rate=None if rate is None else torch.full((4, 1, 1), rate), log_decay=decay.log()[:, None, None]
    )
    W = torch.randn(1, 1, 3, 2)
    reads, last = execute(program, W)
    for step, left in enumerate(decay.cumprod(0)):
        torch.testing.assert_close(reads[step, 0, 0], left * W[0, 0, :, 0])
    torch.testing.assert_close(last, decay.prod() * W)


def test_a_gate_of_one_is_delta_net():
    gated, plain_one = GatedDeltaNet(D, 6, num_heads=2, gate_bias=1e4), DeltaNet(D, 6, num_heads=2)
    with torch.no_grad():
        gated.taps.copy_(plain_one.taps)
        for name in ("weight", "bias"):
            getattr(gated.projection, name)[:-2] = getattr(plain_one.projection, name)
    x = torch.randn(20, B, D)
    torch.testing.assert_close(gated(x), plain_one(x))


def test_the_gate_starts_open():
    core = GatedDeltaNet(D, 6, num_heads=3, gate_bias=2.5)
    assert core.projection.bias[-3:].eq(2.5).all()
    assert core.projection.bias[:-3].abs().max() <= D**-0.5


def test_a_gate_that_is_shut_forgets_without_overflow():
    """The decay between two steps is exp(-1000); its inverse would overflow."""
    core = GatedDeltaNet(D, 4, gate_bias=-1e3)
    x = torch.randn(CHUNK, B, D, requires_grad=True)
    y, _ = core(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()
    alone, _ = core(x, core.initial_state(B)._replace(W=torch.randn(B, 1, 4, 4)))
    torch.testing.assert_close(alone, y)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("hidden_size is 6, expected a multiple of num_heads, 4", {"num_heads": 4}),
        ("num_heads is 0", {"num_heads": 0}),
        ("conv_size is 0, expected an integer of at least 1", {"conv_size": 0}),
        ("gate_bias is nan", {"gate_bias": float("nan")}),
    ],
)
def test_bad_options_are_named(message, options):
    with pytest.raises(ValueError, match=message):
        GatedDeltaNet(D, 6, **options)
