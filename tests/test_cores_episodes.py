"""Every core: nothing passes from one episode to the next in the same row of a batch."""

import pytest
import torch

from .core_family import FAMILY, B, D, H, T, label, random_core, random_state, starts

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=FAMILY, ids=label)
def core(request):
    return random_core(*request.param)


def test_packed_stream_equals_its_episodes_apart(core):
    """Compare outputs, final state, and gradients of inputs and weights; row 0 has episodes of 4, 1 and 4 steps."""
    x = torch.randn(T, B, D, requires_grad=True)
    start = starts(4, 5, row=0)
    weight = torch.randn(T, B, H)
    y, last = core(x, None, start)
    (y * weight).sum().backward()
    packed = [p.grad.clone() for p in core.parameters() if p.requires_grad]
    packed_x = x.grad.clone()
    core.zero_grad()
    x.grad = None

    total = 0.0
    for row, begin, end in [(0, 0, 4), (0, 4, 5), (0, 5, T), (1, 0, T), (2, 0, T)]:
        alone, state = core(x[begin:end, row : row + 1])
        torch.testing.assert_close(alone[:, 0], y[begin:end, row])
        total = total + (alone[:, 0] * weight[begin:end, row]).sum()
        if end == T:
            torch.testing.assert_close([leaf[0] for leaf in state], [leaf[row] for leaf in last])
    total.backward()
    torch.testing.assert_close(x.grad, packed_x)
    torch.testing.assert_close([p.grad for p in core.parameters() if p.requires_grad], packed)


@pytest.mark.parametrize("rate", [0.1, 0.4, 1.0])
def test_many_episodes_equal_steps_with_their_gradients(core, rate):
    """Compare the gradients of inputs, weights, first and final state, with episodes of many lengths."""
    steps, rows = 24, 5
    x, state = torch.randn(steps, rows, D, requires_grad=True), random_state(core, rows)
    start = torch.rand(steps, rows) < rate
    start[6::6] = True  # without its layer norm the fast memory soon overflows
    weight = torch.randn(steps, rows, H)
    leaves = [x, *state, *(p for p in core.parameters() if p.requires_grad)]

    def gradients(y, last):
        total = (y * weight).sum() + sum(leaf.square().sum() for leaf in last)
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    y, last = core(x, state, start)
    found = gradients(y, last)
    outputs, now = [], state
    for t in range(steps):
        y_t, now = core.step(x[t], now, start[t])
        outputs.append(y_t)
    torch.testing.assert_close((y, last), (torch.stack(outputs), now))
    torch.testing.assert_close(found, gradients(torch.stack(outputs), now))


def test_no_gradient_crosses_a_start(core):
    x, state = torch.randn(T, B, D, requires_grad=True), random_state(core)
    y, last = core(x, state, starts(5, row=1))
    loss = y[5:, 1].square().sum() + sum(leaf[1].square().sum() for leaf in last)
    gradients = torch.autograd.grad(loss, [x, *state], materialize_grads=True)
    assert gradients[0][:5].abs().max() == 0
    assert gradients[0][5:, 1].abs().max() > 0
    assert all(g.abs().max() == 0 for g in gradients[1:])


def test_nan_in_a_finished_episode_does_not_reach_the_next(core):
    x = torch.randn(T, B, D)
    x[:3, 0] = torch.nan
    x.requires_grad_()
    state = random_state(core)
    with torch.no_grad():
        for leaf in state:
            leaf[0] = torch.nan
    y, last = core(x, state, starts(3, row=0))
    assert y[:3, 0].isnan().any()
    alone, alone_state = core(x[3:, :1].detach())
    torch.testing.assert_close(y[3:, :1], alone)
    torch.testing.assert_close([leaf[:1] for leaf in last], list(alone_state))
    (gradient,) = torch.autograd.grad(y[3:].square().sum(), x)
    assert gradient[3:].isfinite().all()
    for leaf in core.step(x[3], state, torch.ones(B, dtype=torch.bool))[1]:
        assert leaf.isfinite().all()
