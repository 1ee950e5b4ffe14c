"""The associative LSTM against its equations in plain complex numbers, and against cases computed by hand."""

import numpy as np
import pytest
import torch

from fwagents.cores import AssociativeLSTM, AssociativeLSTMState
from fwagents.cores.associative_lstm import bound

pytestmark = pytest.mark.usefixtures("float64")


def plain_bound(z):
    return z / np.maximum(1, np.abs(z))


def plain(core, x, h, c):
    """Compute the docstring's equations for one row: x [T, D], h complex [n], c complex [S, n] -> y [T, n], c."""
    C, W, b = (p.detach().numpy() for p in (core.weight_ih, core.weight_hh, core.bias))
    K, orders = core.num_heads, core.permutations.numpy()
    ys = []
    for x_t in x:
        blocks = (C @ x_t + W @ np.concatenate([h.real, h.imag]) + b).reshape(1 + 8 * K, len(h))
        gates = 1 / (1 + np.exp(-blocks[: 1 + 2 * K]))
        f, i, o = gates[0], gates[1 : 1 + K], gates[1 + K :]
        vectors = plain_bound(blocks[1 + 2 * K :: 2] + 1j * blocks[2 + 2 * K :: 2])
        w, r, u = vectors[:K], vectors[K : 2 * K], vectors[2 * K :]
        c = np.array([f * c[s] + sum(w[k][order] * i[k] * u[k] for k in range(K)) for s, order in enumerate(orders)])
        h = 0
        for k in range(K):
            h = h + o[k] * plain_bound(np.mean([r[k][order] * c[s] for s, order in enumerate(orders)], axis=0))
        ys.append(h)
    return np.array(ys), c


def complex_of(z):
    real, imag = np.split(z.detach().numpy(), 2, axis=-1)
    return real + 1j * imag


def real_of(z):
    return torch.cat([z.real, z.imag], dim=-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # the latter is compiled
@pytest.mark.parametrize(("copies", "heads"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_equals_the_equations_in_plain_numbers(copies, heads, dtype):
    core = AssociativeLSTM(3, 10, num_copies=copies, num_heads=heads).to(dtype)
    with torch.no_grad():
        for p in core.parameters():
            p.mul_(4)  # keys and values lie inside and outside the unit circle
    x = torch.randn(7, 2, 3, dtype=dtype)
    state = AssociativeLSTMState(torch.randn(2, 10, dtype=dtype), torch.randn(2, copies, 10, dtype=dtype))
    y, last = core(x, state)
    close = {"rtol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for row in range(2):
        outputs, memory = plain(core, x[:, row].numpy(), complex_of(state.h[row]), complex_of(state.c[row]))
        np.testing.assert_allclose(complex_of(y[:, row]), outputs, **close)
        np.testing.assert_allclose(complex_of(last.c[row]), memory, **close)
    torch.testing.assert_close(last.h, y[-1], rtol=0, atol=0)


def told(units, copies):
    """Return a memory that its input controls: x is a key to write, a key to read, a value, write?, read?"""
    n = units
    core = AssociativeLSTM(6 * n + 2, 2 * n, num_copies=copies, num_heads=1)
    with torch.no_grad():
        for p in core.parameters():
            p.zero_()
        core.bias[:n], core.bias[n : 3 * n] = 1000, -1000  # gates exactly 0 and 1: nothing is forgotten
        core.weight_ih[n : 2 * n, -2] = core.weight_ih[2 * n : 3 * n, -1] = 2000
        core.weight_ih[3 * n :, :-2] = torch.eye(6 * n)
    return core


def write(key, value):
    flags = torch.tensor([1.0, 0.0]).expand(*key.shape[:-1], 2)
    return torch.cat([real_of(key), torch.zeros_like(real_of(key)), real_of(value), flags], dim=-1)


def read(key):
    flags = torch.tensor([0.0, 1.0]).expand(*key.shape[:-1], 2)
    return torch.cat([torch.zeros_like(real_of(key)), real_of(key), torch.zeros_like(real_of(key)), flags], dim=-1)


def test_a_case_worked_by_hand():
    """There are two units and two copies; the second copy swaps the key's units."""
    core = told(2, copies=2)
    core.permutations.copy_(torch.tensor([[0, 1], [1, 0]]))
    key, value = torch.tensor([[1, 1j]]), torch.tensor([[0.6 + 0.8j, -0.5]])
    y, state = core(torch.stack([write(key, value), read(key.conj()), read(torch.ones_like(key))]))
    np.testing.assert_allclose(complex_of(state.c)[0], [[0.6 + 0.8j, -0.5j], [-0.8 + 0.6j, -0.5]], atol=1e-15)
    assert y[0].abs().max() == 0
    np.testing.assert_allclose(complex_of(y[1]), value, atol=1e-15)
    np.testing.assert_allclose(complex_of(y[2])[0], [-0.1 + 0.7j, -0.25 - 0.25j], atol=1e-15)


@pytest.mark.parametrize("copies", [1, 4])
def test_one_item_is_read_back_exactly(copies):
    core = told(7, copies)
    key = torch.polar(torch.ones(5, 7), 6.3 * torch.rand(5, 7))
    value = bound(torch.complex(torch.randn(5, 7), torch.randn(5, 7)))
    nothing = torch.zeros(5, core.input_size)
    y, _ = core(torch.stack([write(key, value), nothing, nothing, read(key.conj())]))
    assert y[:-1].abs().max() == 0
    torch.testing.assert_close(y[-1], real_of(value))


@pytest.mark.parametrize("copies", [1, 2, 8])
def test_noise_falls_as_copies_grow(copies):
    """With keys of random phase, unit j of every other item is read as a mean of S numbers of random phase.

    Its variance is |value|^2 / S, and larger where two copies have the same unit of the key at index j.
    """
    rows, units, items, modulus = 600, 32, 10, 0.05  # so small that ``bound`` does not change the sum
    core = told(units, copies)
    keys = torch.polar(torch.ones(items, rows, units), 2 * torch.pi * torch.rand(items, rows, units))
    values = torch.polar(torch.full((items, rows, units), modulus), 2 * torch.pi * torch.rand(items, rows, units))
    with torch.no_grad():
        y, _ = core(torch.cat([write(keys, values), read(keys[:1].conj())]))
    noise = (y[-1] - real_of(values[0])).square().sum(-1).mean() / units
    same = (core.permutations[:, None] == core.permutations[None]).sum().item() / units
    assert noise == pytest.approx((items - 1) * modulus**2 * same / copies**2, rel=0.05)
    assert same / copies**2 < 1.3 / copies


def test_bound():
    """3 + 4i has modulus 5; numbers on or inside the unit circle stay."""
    z = torch.tensor([3 + 4j, 0.3 - 0.4j, 1j, -2, 0])
    np.testing.assert_allclose(bound(z), [0.6 + 0.8j, 0.3 - 0.4j, 1j, -1, 0], rtol=1e-15)
    z = torch.tensor([3 + 4j, 0.3 - 0.4j, 1.01j, -0.99, 0], requires_grad=True)
    assert torch.autograd.gradcheck(bound, z)
    assert torch.autograd.gradgradcheck(bound, z)


def test_gradients():
    """Check gradients of inputs, weights and state, with keys and values on both sides of the bound."""
    core = AssociativeLSTM(2, 4, num_copies=2, num_heads=2)
    names, weights = zip(*core.named_parameters(), strict=True)
    weights = [(3 * p).detach().requires_grad_() for p in weights]
    x, h, c = (torch.randn(shape, requires_grad=True) for shape in [(3, 2, 2), (2, 4), (2, 2, 4)])

    def run(x, h, c, *weights):
        y, last = torch.func.functional_call(
            core, dict(zip(names, weights, strict=True)), (x, AssociativeLSTMState(h, c))
        )
        return y, *last

    assert torch.autograd.gradcheck(run, (x, h, c, *weights))


def test_permutations_come_from_the_seed_and_travel_in_the_state_dict():
    core, again, other = (AssociativeLSTM(3, 40, permutation_seed=seed) for seed in [0, 0, 1])
    assert torch.equal(core.permutations, again.permutations)
    assert not torch.equal(core.permutations, other.permutations)
    assert core.permutations.sort(dim=1).values.equal(torch.arange(20).expand(4, 20))
    x = torch.randn(5, 2, 3)
    other.load_state_dict(core.state_dict())
    torch.testing.assert_close(other(x), core(x), rtol=0, atol=0)


def test_drawing_permutations_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    AssociativeLSTM(2, 4, permutation_seed=0)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    AssociativeLSTM(2, 4, permutation_seed=1)
    assert torch.equal(torch.rand(1), drawn)


def test_initial_weights():
    core = AssociativeLSTM(30, 16, forget_bias=2.0)
    assert core.bias[:8].eq(2).all()
    for drawn in (core.weight_ih, core.weight_hh, core.bias[8:]):
        assert 0.9 / 4 < drawn.abs().max() <= 1 / 4


@pytest.mark.parametrize(
    ("message", "size", "options"),
    [
        ("hidden_size is 7, expected an even number", 7, {}),
        ("num_copies is 0", 6, {"num_copies": 0}),
        ("num_heads is 1.5", 6, {"num_heads": 1.5}),
        ("forget_bias is inf", 6, {"forget_bias": float("inf")}),
        ("permutation_seed is None, expected an integer", 6, {"permutation_seed": None}),
    ],
)
def test_bad_options_are_named(message, size, options):
    with pytest.raises(ValueError, match=message):
        AssociativeLSTM(3, size, **options)
