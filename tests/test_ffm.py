"""Fast and Forgetful Memory against its closed form, a sum over the past, in plain complex numbers."""

import numpy as np
import pytest
import torch

from fwagents.cores import FFM, FFMState

pytestmark = pytest.mark.usefixtures("float64")

B, D, H, M, C = 2, 3, 4, 5, 2


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_equals_the_sum_over_the_past():
    core = FFM(D, H, memory_size=M, context_size=C, max_period=9.0)
    with torch.no_grad():
        core.alpha[0] *= -1  # only the modulus has an effect
    x, S = torch.randn(8, B, D), torch.randn(B, M, C, 2)
    y, last = core(x, FFMState(S))
    weight, bias = core.gates.weight.detach().numpy(), core.gates.bias.detach().numpy()
    mix, mix_bias = core.mix.weight.detach().numpy(), core.mix.bias.detach().numpy()
    gamma = np.exp(-np.abs(core.alpha.detach().numpy())[:, None] - 1j * core.omega.detach().numpy())
    for row in range(B):
        first = S[row].numpy()[..., 0] + 1j * S[row].numpy()[..., 1]
        rows = x[:, row].numpy() @ weight.T + bias
        u = rows[:, :M] * sigmoid(rows[:, M : 2 * M])
        gate, through = sigmoid(rows[:, 2 * M : 2 * M + H]), rows[:, 2 * M + H :]
        for t in range(8):
            memory = gamma ** (t + 1) * first + sum(gamma ** (t - s) * u[s][:, None] for s in range(t + 1))
            z = mix @ np.stack([memory.real, memory.imag], -1).ravel() + mix_bias
            z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
            np.testing.assert_allclose(y[t, row].detach().numpy(), z * gate[t] + through[t] * (1 - gate[t]), rtol=1e-9)
        np.testing.assert_allclose(last.S[row].detach().numpy(), np.stack([memory.real, memory.imag], -1), rtol=1e-9)


def test_what_is_forgotten_when():
    """Initially the slowest trace decays to a hundredth in max_period steps, the period of the slowest context."""
    core = FFM(D, H, memory_size=3, context_size=2, max_period=50)
    shape = core.initial_state(1).S.shape
    S = torch.zeros(shape)
    S[..., 0] = 1.0
    with torch.no_grad():
        core.gates.weight.zero_()
        core.gates.bias.zero_()
        _, last = core(torch.zeros(50, 1, D), FFMState(S))
    sizes = last.S[0].norm(dim=-1)
    assert sizes[0].tolist() == pytest.approx([0.01, 0.01])
    assert sizes[2].tolist() == pytest.approx([np.exp(-100 / 3)] * 2)
    assert last.S[0, 0, 1].tolist() == pytest.approx([0.01, 0.0])


def test_the_state_may_be_a_view():
    core = FFM(D, H, memory_size=M, context_size=C)
    S = torch.randn(C, M, B, 2).permute(2, 1, 0, 3)
    x = torch.randn(3, B, D)
    torch.testing.assert_close(core(x, FFMState(S)), core(x, FFMState(S.contiguous())))


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("memory_size is 0", {"memory_size": 0}),
        ("context_size is 1.5", {"context_size": 1.5}),
        ("max_period is 3", {"max_period": 3}),
    ],
)
def test_bad_options_are_named(message, options):
    with pytest.raises(ValueError, match=message):
        FFM(D, H, **options)
