"""A core of one's own needs one method of ``MemoryCore``."""

import pytest
import torch

from fwagents.cores import HiddenState, MemoryCore

pytestmark = pytest.mark.usefixtures("float64")


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
