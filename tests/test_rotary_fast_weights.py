"""Rotary fast weights against their equations, step by step in plain numbers, and on cases with a known answer."""

import numpy as np
import pytest
import torch

from fwagents.cores import GatedDeltaNet, RotaryFastWeights, RotaryState
from fwagents.cores.programmer import CHUNK, execute

from .core_family import randomised

pytestmark = pytest.mark.usefixtures("float64")

B, D, H = 2, 5, 8


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def linear(layer, x):
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()


def turned(x, t, periods):
    """Rotate x [d], with coordinates 2j and 2j + 1 as one complex number, by t / period_j of a full turn."""
    last = 2 * len(periods)
    z = (x[0:last:2] + 1j * x[1:last:2]) * np.exp(2j * np.pi * t / periods)
    return np.concatenate([np.stack([z.real, z.imag], 1).ravel(), x[last:]])


def plain(core, x, recent, W, t, turns):
    """Compute the docstring's equations for one row, step by step: x [T, D] -> y [T, H] and W [heads, d, d].

    ``turns`` says for every head whether it is turned.
    """
    heads, H = core.num_heads, core.hidden_size
    d = H // heads
    periods = np.geomspace(core.min_period, core.max_period, d // 2)
    taps, seen, ys, W = core.taps.detach().numpy(), [*recent], [], [*W]
    for x_t in x:
        t += 1
        projected = linear(core.projection, x_t)
        seen.append(projected[: -2 * heads])
        q, k, v = sum(w * p for w, p in zip(taps, seen[-core.conv_size :], strict=True)).reshape(3, heads, d)
        betas, alphas = sigmoid(projected[-2 * heads :]).reshape(2, heads)
        read = []
        for n in range(heads):
            query, key = q[n] / np.linalg.norm(q[n]), k[n] / np.linalg.norm(k[n])
            if turns[n]:
                query, key = turned(query, t, periods), turned(key, t, periods)
            left = alphas[n] * W[n]
            W[n] = left + betas[n] * np.outer(v[n] - core.delta_rule * left @ key, key)
            read.append(W[n] @ query)
        read = np.concatenate(read)
        if core.output_gate is not None:
            out = core.output_gate
            normed = (read - read.mean()) / np.sqrt(read.var() + 1e-2)
            normed = normed * out.norm.weight.detach().numpy() + out.norm.bias.detach().numpy()
            g = sigmoid(linear(out.gate, x_t))
            read = g * linear(out.mix, normed) + (1 - g) * linear(out.skip, x_t)
        ys.append(read)
    return np.array(ys), np.array(W)


@pytest.mark.parametrize("steps", [1, 7, 2 * CHUNK + 9])
@pytest.mark.parametrize(
    ("size", "options", "turns"),
    [
        (8, {}, [False, True, False, True]),
        (8, {"rotary": "all", "num_heads": 1, "output_gate": False, "max_period": 9.0}, [True]),
        (8, {"rotary": "none", "num_heads": 2, "conv_size": 2, "gate_bias": (1.0, 2.0)}, [False, False]),
        (8, {"conv_size": 1, "gate_bias": 30.0}, [False, True, False, True]),
        (8, {"delta_rule": False}, [False, True, False, True]),
        (10, {"rotary": "all", "num_heads": 2}, [True, True]),  # an odd number of units per head
    ],
)
def test_equals_its_equations_in_plain_numbers(size, options, turns, steps):
    core = randomised(RotaryFastWeights(D, size, **options))
    x, fresh = torch.randn(steps, B, D), core.initial_state(B)
    state = RotaryState(torch.randn_like(fresh.recent), torch.randn_like(fresh.W), torch.tensor([[3.0], [140.0]]))
    y, last = core(x, state)
    for row in range(B):
        before = (state.recent[row].numpy(), state.W[row].numpy(), state.t[row].item())
        outputs, W = plain(core, x[:, row].numpy(), *before, turns)
        np.testing.assert_allclose(y[:, row].detach().numpy(), outputs, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(last.W[row].detach().numpy(), W, rtol=1e-9, atol=1e-11)
    assert last.t.tolist() == [[3.0 + steps], [140.0 + steps]]


def test_without_its_additions_it_is_gated_delta_net():
    rotary = RotaryFastWeights(D, H, num_heads=2, rotary="none", output_gate=False, silu=True, gate_bias=3.0)
    gated = GatedDeltaNet(D, H, num_heads=2)
    gated.load_state_dict(rotary.state_dict())
    x = torch.randn(20, B, D)
    torch.testing.assert_close(rotary(x)[0], gated(x)[0], rtol=0, atol=0)


def test_the_projections_to_queries_and_keys_begin_four_times_as_large():
    """The standard deviation of a uniform distribution is bound / sqrt(3); torch's bound is 1 / sqrt(D)."""
    core, torchs = RotaryFastWeights(400, 64), 400**-0.5 / 3**0.5
    for parameter in (core.projection.weight, core.projection.bias):
        queries_and_keys, values = parameter[: 2 * 64], parameter[2 * 64 : 3 * 64].unflatten(0, (4, 16))
        assert queries_and_keys.std().item() == pytest.approx(4 * torchs, rel=0.25)
        assert values[[0, 1, 3]].std().item() == pytest.approx(torchs, rel=0.25)
        assert values[2].std().item() == pytest.approx(torchs / 10, rel=0.5)  # the induction head


def program_after(core, x, t=0.0):
    """Return the program of inputs x [T, B, D] that follow t steps of an episode."""
    state = core.initial_state(x.shape[1])
    return core.project(x, state._replace(t=torch.full_like(state.t, t)))[0]


def program_of(core, keys, queries, values):
    """Return the program of one row with given projections [T, d], the same in every head; beta and alpha are 1."""
    parts = [
        torch.tensor(np.array(part), dtype=torch.float64).repeat(1, core.num_heads) for part in (queries, keys, values)
    ]
    with torch.no_grad():
        core.projection.weight.zero_()
        core.projection.bias.zero_()
        core.projection.bias[-2 * core.num_heads :] = 60.0
        core.projection.weight[: 3 * H] = torch.eye(3 * H)
        core.taps.zero_()
        core.taps[-1] = 1.0
    return program_after(core, torch.cat(parts, 1)[:, None])


def test_a_key_written_twice_returns_the_second_value():
    core = RotaryFastWeights(3 * H, H, num_heads=2, rotary="none")
    a, b = [0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]
    values = [[1.0, 2, 3, 4], [5.0, 5, 5, 5], [-7.0, 0, 1, 2]]
    reads, _ = execute(program_of(core, [a, b, a], [a, a, a], values), core.initial_state(1).W)
    torch.testing.assert_close(reads[2, 0, 0], torch.tensor(values[2]))


def test_a_turned_head_answers_to_steps_ago_and_another_is_blind_to_time():
    """The content is the same at every step, so only the time code distinguishes the steps.

    A query that is turned back by n steps reads most of the value of n steps ago; the head that is not turned returns
    the last value at any time.
    """
    core = RotaryFastWeights(3 * H, H, num_heads=2, min_period=4.0, max_period=4.0)
    steps, key = 3, np.array([1.0, 0.0, 1.0, 0.0])
    for ago in range(steps):
        query = turned(key, -ago, np.full(2, 4.0))
        values = np.eye(4)[:steps]
        program = program_of(core, [key] * steps, [query] * steps, values)
        likeness = (program.query[-1, 0, 1] * program.key[:, 0, 1]).sum(-1)  # with a quarter turn per step
        expected = torch.zeros(steps)
        expected[steps - 1 - ago] = 1.0
        if ago == 0:
            expected[0] = -1.0
        elif ago == 2:
            expected[2] = -1.0
        torch.testing.assert_close(likeness, expected)
        blind = (program.query[-1, 0, 0] * program.key[:, 0, 0]).sum(-1)
        assert blind.unique().numel() == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rotary", "induced"), [("half", [2]), ("none", [3]), ("all", [])])
def test_one_untrained_head_without_time_code_reads_what_followed(rotary, induced, seed):
    """After the letters a b c d e a, the last query is most similar to the key of step 2, at which b followed a."""
    torch.manual_seed(seed)
    letters = torch.eye(5)[[0, 1, 2, 3, 4, 0], None]
    core = RotaryFastWeights(5, 128, rotary=rotary)
    program = program_after(core, letters)
    likeness = torch.einsum("hd,shd->hs", program.query[-1, 0], program.key[:, 0])
    assert likeness[induced].argmax(1).tolist() == [1] * len(induced)
    assert (likeness[:, 1] > 0.7).nonzero().flatten().tolist() == induced
    without = program_after(RotaryFastWeights(5, 128, rotary=rotary, induction=False), letters)
    assert (torch.einsum("hd,hd->h", without.query[-1, 0], without.key[1, 0]) < 0.7).all()


def test_without_a_convolution_an_untrained_head_reads_what_was_written_at_the_same_input():
    core = RotaryFastWeights(5, 128, conv_size=1)
    program = program_after(core, torch.eye(5)[:, None])
    torch.testing.assert_close(program.query[:, :, 2], program.key[:, :, 2], rtol=0, atol=0)


@pytest.mark.parametrize("rotary", ["half", "all", "none"])
def test_only_turned_heads_see_a_shift_of_time(rotary):
    """A later start changes the keys of turned heads, but no product of a query and a key."""
    core, x = RotaryFastWeights(D, H, rotary=rotary), torch.randn(12, B, D)
    early, late = program_after(core, x), program_after(core, x, 37.0)
    products = [torch.einsum("tbhd,sbhd->bhts", program.query, program.key) for program in (early, late)]
    torch.testing.assert_close(*products)
    moved = [not torch.allclose(early.key[:, :, n], late.key[:, :, n]) for n in range(core.num_heads)]
    assert moved == {"half": [False, True] * 2, "all": [True] * 4, "none": [False] * 4}[rotary]


def test_a_long_sequence_keeps_its_time_code_and_does_not_overflow():
    """The core runs in float32, after 5,000 steps in one call and after a count of 10 million steps."""
    core = RotaryFastWeights(D, H, rotary="all").float()
    x = torch.randn(5000, 1, D, dtype=torch.float32)
    y, last = core(x)
    assert y.isfinite().all()
    assert last.W.isfinite().all()
    assert last.t.item() == 5000
    exact = RotaryFastWeights(D, H, rotary="all").double()
    exact.load_state_dict(core.state_dict())
    for begun in (0.0, 1e7):
        found, expected = program_after(core, x, begun), program_after(exact, x.double(), begun)
        torch.testing.assert_close(found.key.double(), expected.key, rtol=0, atol=2e-5)


def test_the_count_of_steps_begins_anew_with_an_episode():
    core = RotaryFastWeights(D, H)
    start = torch.zeros(9, B, dtype=torch.bool)
    start[6, 1] = True
    _, last = core(torch.randn(9, B, D), start=start)
    assert last.t.tolist() == [[9.0], [3.0]]


def test_the_gates_start_as_said():
    core = RotaryFastWeights(D, H)
    assert core.projection.bias[-4:].tolist() == [2.0, 4.0, 6.0, 8.0]
    halves = np.log(0.5) / np.log(sigmoid(np.array([2.0, 4.0, 6.0, 8.0])))
    np.testing.assert_allclose(halves, [5, 38, 280, 2066], rtol=0.1)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("rotary is 'some', expected one of half, all, none", {"rotary": "some"}),
        ("min_period is 1.0, expected a number in", {"min_period": 1.0}),
        ("max_period is 2.0, expected a number in", {"max_period": 2.0}),
        (r"gate_bias is \[1.0, 2.0\], expected one number, or one for each of 4 heads", {"gate_bias": [1.0, 2.0]}),
        ("gate_bias is nan", {"gate_bias": float("nan")}),
        ("hidden_size is 8, expected a multiple of num_heads, 3", {"num_heads": 3}),
    ],
)
def test_bad_options_are_named(message, options):
    with pytest.raises(ValueError, match=message):
        RotaryFastWeights(D, H, **options)
