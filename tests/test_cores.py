"""One contract for every core: properties that hold whatever its equations are."""

import pickle

import pytest
import torch

from fwagents.cores import LSTM, NoMemory

from .core_family import FAMILY, B, D, H, T, label, random_core, random_state, starts

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=FAMILY, ids=label)
def core(request):
    return random_core(*request.param)


def test_initial_state_is_a_named_tuple_of_batched_leaves(core):
    state = core.initial_state(5)
    assert isinstance(state, core.state_type)
    assert [leaf.shape for leaf in state] == [(5, *shape) for shape in core.state_shapes]
    assert core.state_size == sum(leaf[0].numel() for leaf in state)
    core.float()
    assert {leaf.dtype for leaf in core.initial_state(1)} == {torch.float32}


def test_no_state_is_the_initial_state(core):
    x = torch.randn(T, B, D)
    torch.testing.assert_close(core(x), core(x, core.initial_state(B)), rtol=0, atol=0)


@pytest.mark.parametrize("with_starts", [False, True])
def test_sequence_equals_steps(core, with_starts):
    x, state = torch.randn(T, B, D), random_state(core)
    start = torch.rand(T, B) < 0.3 if with_starts else None
    y, last = core(x, state, start)
    for t in range(T):
        y_t, state = core.step(x[t], state, None if start is None else start[t])
        torch.testing.assert_close(y_t, y[t])
    torch.testing.assert_close(state, last)


def test_gradients_reach_the_initial_state(core):
    x, state = torch.randn(T, B, D), random_state(core)
    y, _ = core(x, state)
    gradients = torch.autograd.grad(y.square().sum(), state, materialize_grads=True)
    for name, gradient in zip(state._fields, gradients, strict=True):
        if name == "t":  # a count of steps, which has no gradient
            continue
        reached = gradient.flatten(1).abs().amax(1) > 0
        assert not reached.any() if isinstance(core, NoMemory) else reached.all()


def test_gradcheck(core):
    """Compare gradients of all inputs and weights with finite differences, with a start inside the sequence.

    The gradients are checked along random directions, since whole Jacobians of the larger cores take a minute.
    """
    core.eval()
    x, state = torch.randn(4, 2, D, requires_grad=True), random_state(core, 2)
    start = torch.tensor([[False, True], [False, False], [True, False], [False, False]])
    names, weights = zip(*[(n, p) for n, p in core.named_parameters() if p.requires_grad], strict=True)

    def run(x, *rest):
        leaves, parameters = rest[: len(state)], rest[len(state) :]
        named = dict(zip(names, parameters, strict=True))
        y, last = torch.func.functional_call(core, named, (x, type(state)(*leaves), start))
        return y, *last

    assert torch.autograd.gradcheck(run, (x, *state, *weights), fast_mode=True)


def test_pickle_and_state_dict(core):
    x = torch.randn(T, B, D)
    copy = pickle.loads(pickle.dumps(core))
    torch.testing.assert_close(copy(x), core(x), rtol=0, atol=0)
    with torch.no_grad():
        for p in copy.parameters():
            p.zero_()
    copy.load_state_dict(core.state_dict())
    torch.testing.assert_close(copy(x), core(x), rtol=0, atol=0)


def torchs_lstm_runs_in(dtype):
    """Return whether torch's LSTM trains on this dtype under bfloat16 autocast; not all CPUs have the kernel."""
    with torch.autocast("cpu", torch.bfloat16):
        try:
            torch.nn.LSTM(D, H).float()(torch.randn(4, B, D).to(dtype))
        except RuntimeError:
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_starts", [False, True])
def test_bfloat16_autocast_gives_nearly_the_same(core, dtype, with_starts):
    """Compare the outputs of sequence, steps and stepper, and the weights' gradients, with inputs from an encoder."""
    core.float()
    if isinstance(core, LSTM) and not torchs_lstm_runs_in(dtype):
        pytest.skip("torch.nn.LSTM does not run under bfloat16 autocast on this CPU")
    steps = 4  # rounding errors grow from step to step
    x, start = torch.randn(steps, B, D).to(torch.bfloat16), starts(2, row=1)[:steps] if with_starts else None
    names, weights = zip(*((n, p) for n, p in core.named_parameters() if p.requires_grad), strict=True)

    def run(x):
        y, last = core(x, None, start)
        loss = y.float().square().mean() + sum(leaf.float().square().mean() for leaf in last)
        return y.float(), torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)

    def near(found, expected, what):
        assert found.isfinite().all(), what
        if getattr(core, "inner_steps", None) == "adaptive":  # rounding may change the number of reads
            return
        assert (found - expected).norm() <= 0.2 * expected.norm() + 1e-3, what

    y, gradients = run(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        found, found_gradients = run(x.to(dtype))
        state, stepper = core.initial_state(B), core.stepper(B)
        for t in range(steps):
            now = None if start is None else start[t]
            stepped, state = core.step(x[t].to(dtype), state, now)
            near(stepped.float(), y[t], f"step {t}")
            near(stepper.step(x[t].to(dtype), now).float(), y[t], f"stepper {t}")
    near(found, y, "outputs")
    for name, one, other in zip(names, found_gradients, gradients, strict=True):
        near(one, other, name)
