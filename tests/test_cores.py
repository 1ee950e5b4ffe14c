"""One contract for every core: properties that hold whatever its equations are."""

import json
import pickle
import re

import numpy as np
import pytest
import torch

from fwagents.cores import CORES, LSTM, FastWeights, HiddenState, MemoryCore, NoMemory, make_core
from fwagents.cores.base import positive_int

pytestmark = pytest.mark.usefixtures("float64")

FAST_WEIGHT_OPTIONS = [
    {"inner_steps": 3},
    {"inner_steps": 2, "norm_per_step": True},
    {"layer_norm": False, "fast_lr": 0.02},
    {"boundary": "identity", "inner_steps": 2},
    {"normalize_storage": True},
    {"backend": "attention"},
    {"inner_steps": 0},
    {"inner_steps": 0, "layer_norm": False},
    {"inner_steps": "adaptive", "max_inner_steps": 4},
    {"inner_steps": "adaptive", "max_inner_steps": 3, "norm_per_step": True},
    {"inner_steps": "adaptive", "max_inner_steps": 3, "boundary": "identity", "backend": "attention"},
]
FAMILY = [
    *((name, {}) for name in CORES),
    *(("fast_weights", options) for options in FAST_WEIGHT_OPTIONS),
    ("associative_lstm", {"num_copies": 1, "num_heads": 2}),
    ("sum_rule", {"num_heads": 2, "conv_size": 2}),
    ("delta_net", {"num_heads": 4, "conv_size": 3}),
    ("gated_delta_net", {"num_heads": 2, "gate_bias": 1.0}),
    ("delta_net", {"output_gate": True}),
    ("rotary_fast_weights", {"rotary": "all", "num_heads": 2, "conv_size": 2, "min_period": 3.0}),
    ("rotary_fast_weights", {"rotary": "none", "num_heads": 1, "output_gate": False, "silu": True}),
    ("hebbian", {"eta": 0.4}),
    ("ffm", {"memory_size": 3, "context_size": 2, "max_period": 10}),
]
T, B, D, H = 9, 3, 4, 8


@pytest.fixture(params=FAMILY, ids=lambda p: "-".join([p[0], *map(str, p[1].values())]))
def core(request) -> MemoryCore:
    name, options = request.param
    return randomised(make_core(name, D, H, **options))


def randomised(core: MemoryCore) -> MemoryCore:
    """Return the core with random weights: special initial values such as 0 could hide a mistake."""
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return core


def random_state(core, batch_size=B):
    state = core.initial_state(batch_size)
    return type(state)(*(torch.randn_like(leaf, requires_grad=True) for leaf in state))


def starts(*steps, row=slice(None)):
    start = torch.zeros(T, B, dtype=torch.bool)
    for t in steps:
        start[t, row] = True
    return start


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c(torch.randn(T, B, D + 1)), r"x has shape \(9, 3, 5\)"),
        (lambda c: c(torch.randn(T, B)), r"x has shape \(9, 3\)"),
        (lambda c: c(torch.randn(0, B, D)), r"x has shape \(0, 3, 4\)"),
        (lambda c: c.step(torch.randn(T, B, D), c.initial_state(B)), r"x has shape \(9, 3, 4\)"),
        (lambda c: c(torch.randn(T, B, D), c.initial_state(B + 1)), r"state.\w+ has shape \(4, .*\), expected \(3, "),
        (lambda c: c(torch.randn(T, B, D), (torch.zeros(B, H),)), "state is a tuple"),
        (lambda c: c(torch.randn(T, B, D), None, torch.zeros(T, B)), "start is torch.float"),
        (lambda c: c(torch.randn(T, B, D), None, starts()[:, :1]), r"start is torch.bool of shape \(9, 1\)"),
        (lambda c: c.initial_state(0), "batch_size is 0"),
    ],
)
def test_bad_input_is_named(core, call, message):
    with pytest.raises(ValueError, match=message):
        call(core)


@pytest.mark.parametrize(
    ("error", "message", "args", "kwargs"),
    [
        (ValueError, "core is 'lstmm', expected one of fast_weights, rotary_fast_weights, irnn", ("lstmm", D, H), {}),
        (TypeError, "core 'gru' has no option 'decay'", ("gru", D, H), {"decay": 0.9}),
        (
            TypeError,
            "core 'fast_weights' has no option 'dekay'; it has inner_steps",
            ("fast_weights", D, H),
            {"dekay": 1},
        ),
        (ValueError, "hidden_size is 0", ("lstm", D, 0), {}),
        (ValueError, "input_size is 2.5", ("lstm", 2.5, H), {}),
        (ValueError, "inner_steps is -1", ("fast_weights", D, H), {"inner_steps": -1}),
        (ValueError, "decay is 1.5", ("fast_weights", D, H), {"decay": 1.5}),
        (ValueError, "fast_lr is nan", ("fast_weights", D, H), {"fast_lr": float("nan")}),
        (ValueError, "boundary is 'fixed'", ("fast_weights", D, H), {"boundary": "fixed"}),
        (ValueError, "backend is 'cuda'", ("fast_weights", D, H), {"backend": "cuda"}),
        (ValueError, "identity_scale is inf", ("irnn", D, H), {"identity_scale": float("inf")}),
        (ValueError, "forget_bias is nan", ("lstm", D, H), {"forget_bias": float("nan")}),
        (ValueError, "update_bias is 'one'", ("gru", D, H), {"update_bias": "one"}),
    ],
)
def test_make_core_names_what_is_wrong(error, message, args, kwargs):
    with pytest.raises(error, match=message):
        make_core(*args, **kwargs)


@pytest.mark.parametrize(("name", "options"), FAMILY, ids=str)
def test_numpy_numbers_are_numbers(name, options):
    """Sizes and options may be NumPy's, as a sum or product of a shape is; the core stores Python numbers."""
    as_numpy = {
        n: np.int64(v) if type(v) is int else np.float32(v) if type(v) is float else v for n, v in options.items()
    }
    torch.manual_seed(3)
    core = make_core(name, np.int64(D), np.uint8(H), **as_numpy)
    torch.manual_seed(3)
    plain = make_core(name, D, H, **options)
    x = torch.randn(T, np.int64(B), D)
    torch.testing.assert_close(core(x), plain(x), rtol=1e-5, atol=1e-5)
    core.step(x[0], core.initial_state(np.int64(B)))
    core.float().stepper(np.int64(B)).step(x[0].float())
    assert not [n for n, value in vars(core).items() if isinstance(value, np.generic)]
    assert not any(isinstance(size, np.generic) for shape in core.state_shapes for size in shape)
    json.dumps(getattr(core, "options", None))


@pytest.mark.parametrize("value", [0, -1, 2.0, True, np.True_, np.float64(2), "2", None, np.int64(0)])
def test_what_is_no_positive_integer_is_named(value):
    with pytest.raises(ValueError, match=re.escape(f"size is {value!r}, expected an integer of at least 1")):
        positive_int("size", value)


class Decay(MemoryCore[HiddenState]):
    """h(t) = rate h(t-1) + x(t), one step at a time."""

    state_type = HiddenState
    state_shapes = ((2,),)

    def __init__(self):
        super().__init__(2, 2)
        self.rate = torch.nn.Parameter(torch.tensor(0.5))

    def cell(self, x, state):
        h = self.rate * state.h + x
        return h, HiddenState(h)


class DecayInStretches(Decay):
    def stretch(self, x, state):
        ages = torch.arange(len(x)).unsqueeze(1) - torch.arange(len(x))
        weights = torch.where(ages < 0, 0.0, self.rate**ages)
        carried = self.rate ** (1 + torch.arange(len(x))).view(-1, 1, 1) * state.h
        y = torch.einsum("ts,sbd->tbd", weights, x) + carried
        return y, HiddenState(y[-1])

    cell = MemoryCore.cell


class DecayInOneScan(Decay):
    def scan(self, x, state, start):
        h, ys = state.h, []
        for t in range(len(x)):
            h = self.rate * (h if start is None else torch.where(start[t].unsqueeze(1), 0.0, h)) + x[t]
            ys.append(h)
        return torch.stack(ys), HiddenState(h)

    cell = MemoryCore.cell


@pytest.mark.parametrize("kind", [Decay, DecayInStretches, DecayInOneScan])
def test_a_core_of_ones_own_needs_one_method(kind):
    """The base class derives the other two methods from any one."""
    core = kind()
    x, start = torch.ones(4, 1, 2), torch.tensor([[True], [False], [True], [False]])
    expected = [1.0, 1.5, 1.0, 1.5]
    y, last = core(x, core._state([torch.full((1, 2), 9.0)]), start)
    assert y[:, 0, 0].tolist() == expected
    assert last.h[0].tolist() == [1.5, 1.5]
    state = core.initial_state(1)
    for t in range(4):
        y, state = core.step(x[t], state, start[t])
        assert y[0].tolist() == [expected[t]] * 2
    state = HiddenState(torch.full((1, 2), 2.0))
    assert core.cell(x[0], state)[0][0].tolist() == [2.0, 2.0]
    assert core.stretch(x[:2], state)[0][:, 0, 0].tolist() == [2.0, 2.0]


def test_a_core_without_any_is_named():
    with pytest.raises(TypeError, match="Neither has no cell, no stretch and no scan"):
        type("Neither", (MemoryCore,), {})


@pytest.mark.parametrize(("name", "peer"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)])
def test_equals_the_peer(name, peer):
    core, peer = make_core(name, D, H), peer(D, H)
    peer.load_state_dict(core.rnn.state_dict())
    x = torch.randn(T, B, D)
    torch.testing.assert_close(core(x, None, starts(0))[0], peer(x)[0])


@pytest.mark.parametrize(("name", "bias"), [("lstm", {"forget_bias": 40.0}), ("gru", {"update_bias": 40.0})])
def test_a_gate_that_is_biased_to_keep_keeps(name, bias):
    """An LSTM without input to its cell, and a GRU in any case, then keep their state for all inputs."""
    core = make_core(name, D, H, **bias)
    with torch.no_grad():
        if name == "lstm":
            core.rnn.bias_ih_l0[:H] = -40.0  # closes the input gate
    state = core.state_type(*(torch.randn(B, H) for _ in core.state_shapes))
    _, after = core(torch.randn(T, B, D), state, starts())
    torch.testing.assert_close(after[-1], state[-1])


def test_irnn_starts_as_the_identity():
    """With W = I and C = I, positive inputs add up without decay; the ReLU cuts negative sums."""
    core = make_core("irnn", 2, 2, identity_scale=1.0)
    with torch.no_grad():
        core.rnn.weight_ih_l0.copy_(torch.eye(2))
    y, _ = core(torch.tensor([[[1.0, 2.0]], [[1.0, -5.0]], [[0.5, 1.0]]]))
    assert y[:, 0].tolist() == [[1.0, 2.0], [2.0, 0.0], [2.5, 1.0]]


def test_initial_weights_are_the_papers():
    core = FastWeights(40, 25)
    assert torch.equal(core.weight_hh, 0.05 * torch.eye(25))
    assert core.weight_ih.abs().max() <= 25**-0.5
    assert core.weight_ih.abs().max() > 0.9 * 25**-0.5
    assert core.bias.abs().max() == 0


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
