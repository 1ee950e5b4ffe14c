"""Gradient attribution, over all cores: against finite differences, and zero where it must be."""

import pytest
import torch

from fwagents.cores import CORES, make_core
from fwagents.inspection import trace

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", CORES)
def test_against_finite_differences(name):
    torch.manual_seed(1)
    core, head, x = make_core(name, 2, 8), torch.nn.Linear(8, 3), torch.randn(4, 2, 2)
    start = torch.zeros(4, 2, dtype=torch.bool)
    start[2, 1] = True
    found = trace(core, x, start=start, attribution=True, readout=head).attribution
    assert found.shape == (4, 2, 4)
    with torch.no_grad():
        best = head(core(x, start=start)[0]).argmax(-1)

        def scores(x):
            return head(core(x, start=start)[0]).gather(-1, best.unsqueeze(-1)).squeeze(-1)

        step = 1e-6
        for tau in range(4):
            slopes = []
            for d in range(2):
                nudge = torch.zeros_like(x)
                nudge[tau, :, d] = step
                slopes.append((scores(x + nudge) - scores(x - nudge)) / (2 * step))
            expected = torch.stack(slopes).norm(dim=0)
            torch.testing.assert_close(torch.from_numpy(found[:, :, tau]), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CORES)
def test_no_step_is_moved_by_the_future_or_by_another_episode(name):
    core, x = make_core(name, 3, 4), torch.randn(6, 2, 3)
    start = torch.zeros(6, 2, dtype=torch.bool)
    start[3, 0] = True
    found = trace(core, x, start=start, attribution=True, readout=lambda y: y).attribution
    episode = start.cumsum(0)
    for t in range(6):
        for tau in range(6):
            for b in range(2):
                if tau > t or episode[t, b] != episode[tau, b]:
                    assert found[t, b, tau] == 0, (t, tau, b)


def test_needs_scores():
    with pytest.raises(ValueError, match="readout"):
        trace(make_core("gru", 3, 4), torch.randn(2, 1, 3), attribution=True)
