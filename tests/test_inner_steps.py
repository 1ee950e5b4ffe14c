"""The number of inner steps, 0 or adaptive, against plain NumPy, row by row."""

import numpy as np
import pytest
import torch

from fwagents.cores import FastWeights, FastWeightsState, HiddenState

from .core_family import randomised

T, B, D, R = 10, 4, 3, 6


def random_cell(**options) -> FastWeights:
    return randomised(FastWeights(D, R, **options), 0.4)


def normed(core, x, i):
    """Return the ReLU of the layer norm of inner step i, x [R]."""
    if core.norm is not None:
        gain, shift = core.norm.weight.detach().numpy(), core.norm.bias.detach().numpy()
        row = i if len(gain) > 1 else 0
        x = gain[row] * (x - x.mean()) / np.sqrt(x.var() + 1e-5) + shift[row]
    return np.maximum(x, 0)


def boundary(core, x, h):
    W, C, b = (p.detach().numpy() for p in (core.weight_hh, core.weight_ih, core.bias))
    return W @ h + C @ x + b


def one_row(core, xs, start, *, decay, fast_lr, tolerance, most, identity=False, unit=False):
    """Run the adaptive cell over one row's inputs [T, D], from zero: h [T, R], A, and the inner steps [T]."""
    h, A, hs, counts = np.zeros(R), np.zeros((R, R)), [], []
    for x, begins in zip(xs, start, strict=True):
        if begins:
            h, A = np.zeros(R), np.zeros((R, R))
        z = boundary(core, x, h)
        s, count = np.maximum(z, 0), 0
        while count < most:
            before = s
            s = normed(core, (before if identity else z) + A @ before, count)
            count += 1
            if np.linalg.norm(s - before) <= tolerance * np.linalg.norm(before):
                break
        h = s
        key = h / np.sqrt(h @ h + 1e-8) if unit else h
        A = decay * A + fast_lr * np.outer(key, key)
        hs.append(h)
        counts.append(count)
    return np.array(hs), A, counts


@pytest.mark.parametrize("backend", ["torch", "attention"])
@pytest.mark.parametrize(
    ("options", "of_row"),
    [
        ({}, {}),
        ({"tolerance": 0.01, "max_inner_steps": 4}, {}),
        ({"norm_per_step": True, "max_inner_steps": 5}, {}),
        ({"boundary": "identity"}, {"identity": True}),
        ({"normalize_storage": True, "decay": 0.5}, {"unit": True}),
        ({"layer_norm": False, "fast_lr": 0.02}, {}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("float64")
def test_adaptive_rows_in_plain_numpy(options, of_row, backend):
    core = random_cell(inner_steps="adaptive", backend=backend, **options)
    x, start = torch.randn(T, B, D), torch.rand(T, B) < 0.2
    y, state = core(x, None, start)
    taken = core.inner_steps_taken(x, None, start)
    assert len(taken.unique()) > 1, "rows settle at different times"
    constants = {"decay": options.get("decay", 0.95), "fast_lr": options.get("fast_lr", 0.5)}
    constants |= {"tolerance": options.get("tolerance", 0.1), "most": options.get("max_inner_steps", 10)}
    for b in range(B):
        h, A, counts = one_row(core, x[:, b].numpy(), start[:, b], **constants, **of_row)
        torch.testing.assert_close(y[:, b].detach(), torch.from_numpy(h))
        torch.testing.assert_close(state.A[b].detach(), torch.from_numpy(A))
        assert taken[:, b].tolist() == counts


MEMORY_OPTIONS = [
    {},
    {"decay": 0.1, "fast_lr": 3.0},
    {"boundary": "identity", "normalize_storage": True},
    {"norm_per_step": True},
    {"layer_norm": False},
]


@pytest.mark.parametrize("backend", ["torch", "attention", "numba"])
@pytest.mark.parametrize("options", MEMORY_OPTIONS, ids=str)
def test_no_inner_step_is_a_layer_normalised_rnn(options, backend):
    """The memory's options have no effect. The compiled scan runs in single precision, the others in double."""
    core = random_cell(inner_steps=0, backend=backend, **options).double()
    x, start = torch.randn(T, B, D, dtype=torch.float64), torch.rand(T, B) < 0.2
    expected = np.zeros((T, B, R))
    for b in range(B):
        h = np.zeros(R)
        for t in range(T):
            h = normed(core, boundary(core, x[t, b].numpy(), np.zeros(R) if start[t, b] else h), 0)
            expected[t, b] = h
    if backend == "numba":
        core, x, expected = core.float(), x.float(), expected.astype(np.float32)
    y, state = core(x, None, start)
    torch.testing.assert_close(y.detach(), torch.from_numpy(expected))
    assert isinstance(state, HiddenState)
    assert core.state_size == R, "no memory is kept"
    assert isinstance(core.stepper(B).state, HiddenState)
    assert torch.equal(core.inner_steps_taken(x), torch.zeros(T, B, dtype=torch.int64))


def gradients(core, x, state):
    """Return the output, and the gradients of a row's inputs, state and weights, after one step."""
    y, last = core(x, state)
    total = (y * torch.arange(1.0, R + 1)).sum() + last.A.square().sum()
    return y, torch.autograd.grad(total, [x, *state, *core.parameters()])


@pytest.mark.parametrize("tolerance", [0.05, 0.5])
@pytest.mark.parametrize("options", [{}, {"norm_per_step": True}, {"boundary": "identity"}], ids=str)
@pytest.mark.usefixtures("float64")
def test_a_row_is_the_fixed_core_of_as_many_steps(options, tolerance):
    """Compare the output and all gradients; layer-norm rows of steps that were not taken get none."""
    core = random_cell(inner_steps="adaptive", max_inner_steps=6, tolerance=tolerance, **options)
    for _ in range(6):
        x = torch.randn(1, 1, D, requires_grad=True)
        state = FastWeightsState(*(torch.randn_like(leaf).requires_grad_() for leaf in core.initial_state(1)))
        steps = int(core.inner_steps_taken(x, state))
        fixed = FastWeights(D, R, inner_steps=steps, **options)
        weights = core.state_dict()
        for name in ("norm.weight", "norm.bias"):
            weights[name] = weights[name][: len(fixed.state_dict()[name])]
        fixed.load_state_dict(weights)
        y, found = gradients(core, x, state)
        z, expected = gradients(fixed, x, state)
        assert torch.equal(y, z)
        for gradient, truth in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient[: len(truth)], truth)
            assert not gradient[len(truth) :].any()


@pytest.mark.parametrize(("tolerance", "steps"), [(1e9, 1), (0.0, 4)])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_where_all_rows_take_as_many_steps_it_is_the_fixed_core(tolerance, steps, precision):
    """Outputs and gradients of a whole sequence are bitwise equal, compiled and not."""
    core = random_cell(inner_steps="adaptive", tolerance=tolerance, max_inner_steps=4).to(precision)
    with torch.no_grad():
        core.bias.add_(2.0)  # h_0 is not all zero; from zero every move is large
    fixed = FastWeights(D, R, inner_steps=steps).to(precision)
    fixed.load_state_dict(core.state_dict())
    x = torch.randn(T, B, D, dtype=precision)
    state = FastWeightsState(*(torch.randn_like(leaf) for leaf in core.initial_state(B)))
    assert (core.inner_steps_taken(x, state) == steps).all()
    results = []
    for each in (core, fixed):
        y, last = each(x, state)
        results.append((y, *last, *torch.autograd.grad(y.square().sum() + last.A.sum(), list(each.parameters()))))
    for found, truth in zip(*results, strict=True):
        assert torch.equal(found, truth)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_its_neighbours(precision):
    """Its outputs and number of inner steps are the same, bitwise, however many steps other rows take."""
    core = random_cell(inner_steps="adaptive").to(precision)
    x, others = torch.randn(2, T, B, D, dtype=precision)
    others[:, 1] = x[:, 1]
    assert torch.equal(core(x)[0][:, 1], core(others)[0][:, 1])
    assert torch.equal(core.inner_steps_taken(x)[:, 1], core.inner_steps_taken(others)[:, 1])
    torch.testing.assert_close(core(x)[0][:, 1:2], core(x[:, 1:2])[0])


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_settled_row_stays_exactly_as_it_is(precision):
    """A larger limit changes no row that needed fewer steps."""
    core, longer = (FastWeights(D, R, inner_steps="adaptive", max_inner_steps=n).to(precision) for n in (4, 40))
    core.load_state_dict(random_cell().state_dict())
    longer.load_state_dict(core.state_dict())
    x = torch.randn(1, 200, D, dtype=precision)
    state = FastWeightsState(*(torch.randn_like(leaf) for leaf in core.initial_state(200)))
    settled = longer.inner_steps_taken(x, state)[0] <= 4
    assert 0 < settled.sum() < 200
    equal = (core(x, state)[0] == longer(x, state)[0])[0].all(1)
    assert equal[settled].all()
    assert not equal[~settled].all()


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_nothing_settles_at_once_and_nan_never(precision):
    core = FastWeights(D, R, inner_steps="adaptive", max_inner_steps=7).to(precision)
    x = torch.zeros(3, 2, D, dtype=precision)
    x[1, 1, 0] = torch.nan
    assert core.inner_steps_taken(x).tolist() == [[1, 1], [1, 7], [1, 7]]
    y, _ = core(x)
    assert not y[:, 0].any()
    assert y[1:, 1].isnan().all()


def test_a_fixed_core_takes_what_it_was_given():
    x = torch.randn(T, B, D)
    assert torch.equal(FastWeights(D, R, inner_steps=3).inner_steps_taken(x), torch.full((T, B), 3))
    with pytest.raises(ValueError, match=r"x has shape \(10, 4, 3\), expected \[T, B, 5\]"):
        FastWeights(5, R, inner_steps="adaptive").inner_steps_taken(x)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "3, 6, inner_steps=1, decay=0.95, "),
        ({"inner_steps": 0}, "3, 6, inner_steps=0, "),
        ({"inner_steps": "adaptive", "tolerance": 0.2}, "tolerance=0.2, max_inner_steps=10, "),
    ],
)
def test_print_shows_what_was_asked_for(options, shown):
    assert shown in repr(FastWeights(D, R, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": -1}, "inner_steps is -1, expected an integer of at least 0, or 'adaptive'"),
        ({"inner_steps": 1.0}, "inner_steps is 1.0, expected an integer of at least 0, or 'adaptive'"),
        ({"inner_steps": True}, "inner_steps is True"),
        ({"inner_steps": "adaptiv"}, "inner_steps is 'adaptiv'"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"max_inner_steps": 0}, "max_inner_steps is 0, expected an integer of at least 1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FastWeights(D, R, **{"inner_steps": "adaptive", **options})
