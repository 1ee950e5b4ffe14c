"""For every core, stepping equals running over the sequence."""

import pytest
import torch

from fwagents.cores import CORES, FastWeights, make_core

FAMILY = [(name, {}) for name in CORES] + [
    ("fast_weights", options)
    for options in (
        {"inner_steps": 2, "norm_per_step": True},
        {"layer_norm": False, "fast_lr": 0.002},
        {"boundary": "identity"},
        {"normalize_storage": True},
        {"backend": "torch"},
        {"inner_steps": 0},
        {"inner_steps": 0, "backend": "torch"},
        {"inner_steps": "adaptive"},
        {"inner_steps": "adaptive", "max_inner_steps": 3, "norm_per_step": True},
    )
]
T, B, D = 170, 5, 4


@pytest.fixture(params=FAMILY, ids=lambda p: "-".join([p[0], *map(str, p[1].values())]))
def core(request):
    name, options = request.param
    return make_core(name, D, 20, **options)


def close(left, right):
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(left, right, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("probability", [0.0, 0.03])
def test_stepper_equals_forward(core, probability):
    x, start = torch.randn(T, B, D), torch.rand(T, B) < probability
    y, end = core(x, None, start)
    stepper = core.stepper(B)
    kept = []
    for t in range(T):
        found = stepper.step(x[t], start[t] if start[t].any() or t % 2 else None)
        assert torch.allclose(found, y[t], rtol=1e-4, atol=1e-4), t
        if t % 23 == 0:
            kept.append((t, stepper.state))
    assert close(stepper.state, end)
    for t, state in kept:
        assert close(state, core(x[: t + 1], None, start[: t + 1])[1])


@torch.no_grad()
def test_stepper_goes_on_from_a_state(core):
    x = torch.randn(12, B, D)
    y, end = core(x)
    _, middle = core(x[:5])
    before = [leaf.clone() for leaf in middle]
    for stepper in (core.stepper(middle), core.stepper(B)):
        stepper.load(middle)
        assert close(stepper.state, middle)
        assert torch.allclose(torch.stack([stepper.step(x_t) for x_t in x[5:]]), y[5:], atol=1e-5)
        assert close(stepper.state, end)
    assert all(torch.equal(a, b) for a, b in zip(middle, before, strict=True))


def test_stepper_has_no_graph_and_checks_shapes(core):
    stepper = core.stepper(B)
    assert not stepper.step(torch.randn(B, D)).requires_grad
    with pytest.raises(ValueError, match="start is"):
        stepper.step(torch.randn(B, D), torch.zeros(B))
    with pytest.raises(ValueError, match="state"):
        stepper.load(core.initial_state(B + 1))


@torch.no_grad()
def test_stepper_follows_the_parameters():
    core = FastWeights(D, 20)
    x, stepper = torch.randn(B, D), core.stepper(B)
    for p in core.parameters():
        p.add_(0.1)
    assert torch.allclose(stepper.step(x), core(x.unsqueeze(0))[0][0], atol=1e-5)
