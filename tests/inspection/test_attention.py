"""The attention of every fast memory against the matrix that is read, and against numbers computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.cores import FastWeights, make_core
from fwagents.inspection import Reads, growth, reads, trace
from tests.core_family import randomised

pytestmark = pytest.mark.usefixtures("float64")

OPTIONS = [
    {},
    {"inner_steps": 3, "norm_per_step": True},
    {"layer_norm": False, "fast_lr": 0.1},
    {"inner_steps": 2, "boundary": "identity"},
    {"normalize_storage": True},
    {"normalize_storage": True, "boundary": "identity", "inner_steps": 2, "decay": 0.0},
    {"inner_steps": "adaptive", "tolerance": 0.2, "max_inner_steps": 5},
]


def sequence(options) -> tuple[FastWeights, Tensor, Tensor]:
    """Return a core with random weights, inputs [8, 3, 4], and starts in the middle of two rows."""
    core = randomised(FastWeights(4, 6, **options))
    start = torch.zeros(8, 3, dtype=torch.bool)
    start[3, 1] = start[1, 2] = start[6, 2] = True
    return core, torch.randn(8, 3, 4), start


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_parts_add_up_to_the_read_and_to_the_step(options):
    """With A from a step-by-step run, the weighted sum is A h_s, and equation 5 gives the step's output."""
    core, x, start = sequence(options)
    found = trace(core, x, start=start)
    state = core.initial_state(3)
    for t in range(8):
        before = core.reset(state, start[t])
        keys, queries, weights = (torch.from_numpy(a[t][:, 0]) for a in (found.keys, found.queries, found.attention))
        written = torch.from_numpy(found.written[:, :, 0]).transpose(0, 1)  # [B, T, R]
        torch.testing.assert_close(weights @ written, torch.einsum("brq,bsq->bsr", before.A, queries))
        boundary = before.h @ core.weight_hh.T + x[t] @ core.weight_ih.T + core.bias
        torch.testing.assert_close(queries[:, 0], boundary.relu())
        y, state = core.step(x[t], before)
        torch.testing.assert_close(torch.from_numpy(found.hidden[t]), y)
        torch.testing.assert_close(
            state.A, core.options.decay * before.A + core.options.fast_lr * torch.einsum("br,bq->brq", keys, keys)
        )


def test_the_last_read_of_a_settled_row_is_the_one_that_settled_it():
    """Equation 5 with the last read gives the output, for any number of inner steps."""
    core, x, start = sequence({"inner_steps": "adaptive", "tolerance": 0.2, "max_inner_steps": 5})
    taken = core.inner_steps_taken(x, start=start)
    assert len(taken.unique()) > 1
    found = trace(core, x, start=start)
    assert (found.inner_steps == taken.numpy()).all()
    parts = (found.attention[:, :, 0, -1], found.written[:, :, 0])
    last = torch.einsum("tbu,ubr->tbr", *map(torch.from_numpy, parts))
    before = torch.from_numpy(found.hidden).roll(1, 0).masked_fill(start.unsqueeze(-1), 0)
    before[0] = 0
    total = before @ core.weight_hh.T + x @ core.weight_ih.T + core.bias + last
    y = torch.relu(F.layer_norm(total, [6], core.norm.weight[0], core.norm.bias[0]))
    torch.testing.assert_close(torch.from_numpy(found.hidden), y)


def test_single_precision_too():
    """In float32, which agents use, the hidden states come from the compiled scan."""
    core, x, start = sequence({"inner_steps": 2})
    core, x = core.float(), x.float()
    found = trace(core, x, start=start)
    state = core.initial_state(3)
    for t in range(8):
        state = core.reset(state, start[t])
        read = torch.from_numpy(found.attention[t, :, 0]) @ torch.from_numpy(found.written[:, :, 0]).transpose(0, 1)
        expected = torch.einsum("brq,bsq->bsr", state.A, torch.from_numpy(found.queries[t, :, 0]))
        torch.testing.assert_close(read, expected, rtol=1e-4, atol=1e-5)
        _, state = core.step(x[t], state)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nothing_is_attended_to_in_the_future_or_in_another_episode(options):
    core, x, start = sequence(options)
    attention = trace(core, x, start=start).attention
    episode = start.cumsum(0)
    for t in range(8):
        for tau in range(8):
            for b in range(3):
                if tau >= t or episode[tau, b] != episode[t, b]:
                    assert not attention[t, b, ..., tau].any(), (t, tau, b)
    assert attention.any()


def test_by_hand():
    """One unit, W = 1/2, C = 1, decay 1/2, fast_lr 1, inputs 1; the values of h are as in the cell's own test.

    t=2 reads A = h(1)^2 = 1 with h_0 = 3/2: weight 1 * h(1) . h_0 = 3/2; then with h_1 = 3: weight 3; h(2) = 9/2.
    t=3: boundary 9/4 + 1 = 13/4 = h_0; weights 1/2 * 1 * 13/4 = 13/8 and 9/2 * 13/4 = 117/8.
    A is 1, then 1/2 + 81/4 = 83/4. One unit has rank 1.
    """
    core = FastWeights(1, 1, decay=0.5, fast_lr=1.0, layer_norm=False, inner_steps=2)
    with torch.no_grad():
        core.weight_hh.fill_(0.5)
        core.weight_ih.fill_(1.0)
    found = trace(core, torch.ones(3, 1, 1))
    assert found.attention.shape == (3, 1, 1, 2, 3)
    assert found.hidden[:2].ravel().tolist() == [1.0, 4.5]
    assert found.attention[0].ravel().tolist() == [0.0] * 6
    assert found.attention[1, 0, 0].tolist() == [[1.5, 0, 0], [3, 0, 0]]
    assert found.attention[2, 0, 0, 0].tolist() == [13 / 8, 117 / 8, 0]
    assert found.norm[:2].ravel().tolist() == [1.0, 83 / 4]
    assert found.effective_rank.ravel() == pytest.approx([1.0] * 3)


def test_normalised_storage_by_hand():
    """h = (3, 4) is stored as (3, 4) / 5, times fast_lr: the second step's weight is (3, 4)/5 . (6, 8) = 10."""
    core = FastWeights(1, 2, fast_lr=0.3, layer_norm=False, normalize_storage=True, identity_scale=1.0)
    with torch.no_grad():
        core.weight_ih.copy_(torch.tensor([[3.0], [4.0]]))
    found = trace(core, torch.ones(2, 1, 1))
    assert found.keys[0, 0, 0] == pytest.approx([0.6, 0.8])
    assert found.written[0, 0, 0] == pytest.approx([0.18, 0.24])
    assert found.attention[1, 0, 0, 0] == pytest.approx([10.0, 0.0])
    assert found.parts()[1, 0, 0] == pytest.approx([3.0, 0.0])


def written_under(keys, written, decay):
    """Return the reads of one row and head that ``growth`` needs, from keys and written values, each [T, d]."""
    parts = (part[:, None, None] for part in (keys, written))
    return Reads(*parts, None, None, torch.full((len(keys), 1, 1), decay), None)


def test_growth():
    """Orthogonal keys of length 1, 1, 2 and no decay: the eigenvalues of A are fast_lr (1, 1, 4). Then a start."""
    keys = torch.diag(torch.tensor([1.0, 1.0, 2.0, 0.0]))
    norm, rank = growth(written_under(keys, 0.5 * keys, 1.0), torch.tensor([[True], [False], [False], [True]]))
    assert norm.ravel().tolist() == pytest.approx([0.5, 0.5 * 2**0.5, 0.5 * 18**0.5, 0.0])
    # Entropy of (1/6, 1/6, 4/6): 6^(1/6) 6^(1/6) (3/2)^(2/3).
    assert rank.ravel().tolist() == pytest.approx([1.0, 2.0, 6 ** (1 / 3) * 1.5 ** (2 / 3), 0.0])


def test_norm_is_that_of_the_state():
    core, x, start = sequence({})
    found = trace(core, x, start=start)
    for t in range(8):
        _, state = core(x[: t + 1], start=start[: t + 1])
        assert found.norm[t, :, 0] == pytest.approx(state.A.flatten(1).norm(dim=1).tolist())
    assert trace(core, x, growth=False).norm is None
    without = trace(core, x, start=start, attention=False)
    assert (without.attention, without.written, without.norm) == (None, None, None)
    np.testing.assert_array_equal(without.hidden, found.hidden)


@pytest.mark.parametrize(("name", "options"), [("lstm", {}), ("fast_weights", {"inner_steps": 0})])
def test_other_cores_have_units_only(name, options):
    core = make_core(name, 4, 6, **options)
    found = trace(core, torch.randn(5, 2, 4))
    assert found.core == type(core).__name__
    assert found.hidden.shape == (5, 2, 6)
    assert found.attention is None
    with pytest.raises(TypeError, match="expected FastWeights with inner steps, or a FastWeightProgrammer"):
        reads(core, torch.randn(5, 2, 4), torch.randn(5, 2, 6), torch.ones(5, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"the trace of {found.core} has no attention"):
        found.parts()


def test_reads_of_given_outputs():
    """``reads`` takes known outputs; a row's reads do not depend on the other rows."""
    core, x, start = sequence({})
    start[0] = True
    y, _ = core(x, start=start)
    together = reads(core, x, y, start)
    alone = reads(core, x[:, 1:2], y[:, 1:2], start[:, 1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[:, 1:2], b)


def test_growth_of_few_units_among_many():
    """Most units are zero and A has rank one, for which float32 eigenvalues do not always converge."""
    generator = torch.Generator().manual_seed(0)
    key = torch.relu(torch.randn(1, 1, 128, generator=generator, dtype=torch.float32))
    key[..., torch.randperm(128, generator=generator)[:77]] = 0
    key = key[0]
    norm, rank = growth(written_under(key, 0.5 * key, 0.95), torch.ones(1, 1, dtype=torch.bool))
    assert norm.item() == pytest.approx(0.5 * key.square().sum().item(), rel=1e-5)
    assert rank.item() == pytest.approx(1.0, rel=1e-4)
