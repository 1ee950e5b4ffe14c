"""experiments/idea.py: its weights equal the reads of the real cores, and the memories differ as docs/idea.md says."""

import pytest
import torch
from matplotlib.colors import to_rgb

from experiments import idea
from fwagents.figures import PALETTES

VALUES = torch.zeros(len(idea.EPISODE), idea.SIZE, dtype=torch.float64)
for place, number in enumerate([1, None, 2, 3, 4, 5]):  # of d1 / a2 b3 a4 c5
    if number:
        VALUES[place, number - 1] = 1


@pytest.mark.parametrize("memory", idea.MEMORIES)
def test_the_values_by_their_weights_are_what_the_core_reads(memory):
    core, x = idea.programmer(memory)
    y, _ = core(x)
    by_head = y[-1].unflatten(-1, (idea.HEADS, idea.SIZE))
    torch.testing.assert_close(by_head.sum(1), idea.value_weights(memory) @ VALUES)
    assert [read.abs().sum().item() for read in (by_head[:2, 1], by_head[2, 0])] == [0, 0], "one head a question"


@torch.no_grad()
def test_the_states_by_their_weights_are_what_the_cell_reads():
    """A and the states come from the core's steps, h_0 of the last step from the paper's equation."""
    core, x = idea.cell()
    state, written = core.initial_state(x.shape[1]), []
    for x_t in x[:-1]:
        h, state = core.step(x_t, state)
        written.append(core.options.fast_lr * h / h.norm(dim=-1, keepdim=True))
    first = (state.h @ core.weight_hh.T + x[-1] @ core.weight_ih.T + core.bias).relu()
    read = torch.einsum("brc,bc->br", state.A, first)
    torch.testing.assert_close(torch.einsum("bs,sbr->br", idea.state_weights(), torch.stack(written)), read)


def test_each_memory_reads_what_the_page_says():
    """At the question d1 is 6 steps old and c5 one; the first memory's decay is 0.95 per step."""
    state, keys, delta, gated, timed = (rows.tolist() for rows in idea.weights().values())
    for row in state:
        assert row == sorted(row), "a decaying mean: the later, the more"
        assert min(row) > 0.6 * max(row)
    old = [0.95**age for age in (6, 5, 4, 3, 2, 1)]
    assert keys == [
        pytest.approx([0, 0, old[2], 0, old[4], 0]),
        pytest.approx([old[0], 0, 0, 0, 0, 0]),
        pytest.approx([old[0], 0, *old[2:]]),
    ]
    replaced = [[0, 0, 0, 0, old[4], 0], [old[0], 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, old[5]]]
    assert delta == [pytest.approx(row, abs=1e-9) for row in replaced]
    cleared = [[0, 0, 0, 0, 1, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]
    assert gated == [pytest.approx(row, abs=3e-3) for row in cleared]
    assert timed[:2] == gated[:2]
    *others, ago = sorted(timed[2], key=abs)
    assert ago == timed[2][3] > 0.85, "b3 was three steps ago"
    assert max(map(abs, others)) < ago / 2


@pytest.mark.parametrize("theme", PALETTES)
def test_bars_are_the_weights_and_the_answer_stands_out(theme):
    figure = idea.draw(theme)
    rows = idea.weights()
    shown = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert shown == [bars for values in rows.values() for bars in values.tolist()]
    answer = to_rgb(PALETTES[theme].lines[0])
    found = [[t for t, bar in enumerate(axes.patches) if bar.get_facecolor()[:3] == answer] for axes in figure.axes]
    assert found == [[4], [], [3]] * len(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes[::3]] == list(rows)


def test_pictures_are_light_and_dark(tmp_path):
    light, dark = idea.pictures(tmp_path)
    assert PALETTES["light"].ground in light.read_text()
    assert PALETTES["dark"].ground in dark.read_text()
    for path in (light, dark):
        assert all(memory.title in path.read_text() for memory in idea.MEMORIES)
