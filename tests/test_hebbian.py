"""Differentiable plasticity against its equations in plain numbers, and a case computed by hand."""

import numpy as np
import pytest
import torch

from fwagents.cores import Hebbian

pytestmark = pytest.mark.usefixtures("float64")


def test_equals_the_equations_in_plain_numbers():
    core = Hebbian(3, 4, eta=0.3)
    with torch.no_grad():
        core.alpha.mul_(50)
        core.bias.normal_()
    x, state = torch.randn(6, 2, 3), core.initial_state(2)
    state = type(state)(*(torch.randn_like(leaf) for leaf in state))
    y, last = core(x, state)
    C, W, b, alpha = (p.detach().numpy() for p in (core.weight_ih, core.weight_hh, core.bias, core.alpha))
    for row in range(2):
        h, hebb = state.h[row].numpy(), state.hebb[row].numpy()
        for t in range(6):
            summed = C @ x[t, row].numpy() + b
            for i in range(4):
                for j in range(4):
                    summed[i] += (W[i, j] + alpha[i, j] * hebb[i, j]) * h[j]
            new = np.tanh(summed)
            hebb = 0.7 * hebb + 0.3 * np.outer(new, h)
            h = new
            np.testing.assert_allclose(y[t, row].detach().numpy(), h, rtol=1e-10)
        np.testing.assert_allclose(last.hebb[row].detach().numpy(), hebb, rtol=1e-10)


def test_a_pairing_is_recalled_through_its_trace():
    """Unit 0 is active, then unit 1: this leaves only the trace from 0 to 1, through which 0 later activates 1."""
    core = Hebbian(2, 2, eta=0.5)
    with torch.no_grad():
        for p in (core.weight_hh, core.weight_ih):
            p.zero_()
        core.weight_ih.copy_(torch.eye(2))
        core.alpha.fill_(1.0)
    x = torch.zeros(4, 1, 2)
    x[0, 0, 0] = x[1, 0, 1] = x[2, 0, 0] = 1.0
    y, _ = core(x)
    one = np.tanh(1.0)
    # After step 1, hebb[1, 0] is one^2 / 2; step 2 halves it and writes hebb[0, 1].
    assert y[1, 0].tolist() == pytest.approx([0, one])
    recalled = np.tanh(one * one**2 / 4)
    assert y[3, 0].tolist() == pytest.approx([0, recalled])


def test_initial_weights():
    core = Hebbian(30, 16, eta=0.2)
    assert core.eta.item() == pytest.approx(0.2)
    assert core.bias.eq(0).all()
    for drawn, bound in [(core.weight_ih, 0.25), (core.weight_hh, 0.25), (core.alpha, 0.01)]:
        assert 0.9 * bound < drawn.abs().max() <= bound


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_bad_eta_is_named(eta):
    with pytest.raises(ValueError, match=f"eta is {eta!r}, expected a"):
        Hebbian(3, 4, eta=eta)
