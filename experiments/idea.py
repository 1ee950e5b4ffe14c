"""The figure of docs/idea.md: one episode under each memory between Ba et al.'s cell and rotary fast weights.

Nothing is trained. Ba et al.'s cell sees one-hot symbols through its initial weights; keys, values, queries and gates
of the other memories are set by hand.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fwagents.cores import FastWeights, RotaryFastWeights
from fwagents.cores.programmer import execute
from fwagents.cores.rotary_fast_weights import turn
from fwagents.figures.style import PALETTES, Palette, Theme, save, themed
from fwagents.inspection import reads
from fwagents.sb3.policies import AGENT_CORE_KWARGS

NAME = "one-step-at-a-time"
NEW_ROUND = "/"
EPISODE = ("d1", NEW_ROUND, "a2", "b3", "a4", "c5")  # a letter with its number at each step
LETTERS, NUMBERS = "abcd", "12345"
SYMBOLS = [*LETTERS, *NUMBERS, NEW_ROUND, "?"]
AGO = 3


class Question(NamedTuple):
    """A question at the step after the episode.

    Attributes:
        words: the question.
        answer: the right answer.
        letter: the letter whose number is asked for; None asks for the number of ``AGO`` steps ago.
        place: the step that holds the answer; None if no step does.
    """

    words: str
    answer: str
    letter: str | None
    place: int | None


QUESTIONS = (
    Question("a?", "4", "a", EPISODE.index("a4")),
    Question("d?", "nothing", "d", None),
    Question(f"{AGO} steps ago?", "3", None, len(EPISODE) - AGO),
)


class Memory(NamedTuple):
    """A fast-weight programmer of the figure: its title, its options, and whether the input chooses its decay."""

    title: str
    options: dict[str, Any]
    gated: bool


DECAY = 0.95  # of memories whose decay the input does not choose
HEADS, SIZE = 2, 32  # an agent's heads have as many units
CLOCK = torch.cat([torch.ones(14), torch.zeros(SIZE - 14)])  # nonzero in the pairs that turn fastest
FIRST = "1  one state is key, value and query"
MEMORIES = (
    Memory("2  separate keys, values and queries", {"rotary": "none", "delta_rule": False}, False),
    Memory("3  a write replaces what its key held", {"rotary": "none"}, False),
    Memory("4  the input chooses the decay", {"rotary": "none"}, True),
    Memory("5  a time code in half of the heads", {"rotary": "half"}, True),
)


@torch.no_grad()
def state_weights() -> Tensor:
    """Return each state's weight in the read of each question [questions, steps], for Ba et al.'s cell."""
    core, x = cell()
    start = torch.zeros(x.shape[:2], dtype=torch.bool)
    start[0] = True
    return reads(core, x, core(x)[0], start).weights[-1, :, 0, -1, :-1]


def cell() -> tuple[FastWeights, Tensor]:
    """Return Ba et al.'s cell as an untrained agent has it, and one-hot symbols [steps, questions, D]."""
    x = torch.zeros(len(EPISODE) + 1, len(QUESTIONS), len(SYMBOLS), dtype=torch.float64)
    for row, question in enumerate(QUESTIONS):
        for t, symbols in enumerate((*EPISODE, "?" + (question.letter or ""))):
            x[t, row, [SYMBOLS.index(symbol) for symbol in symbols]] = 1
    torch.manual_seed(0)
    return FastWeights(len(SYMBOLS), 128, decay=DECAY, **AGENT_CORE_KWARGS["fast_weights"]).double(), x


@torch.no_grad()
def value_weights(memory: Memory) -> Tensor:
    """Return each value's weight in the read of each question [questions, steps], for a programmer.

    A read is linear in the values. With the rows of the identity as values, a read is its weights.
    """
    core, x = programmer(memory)
    program, _ = core.project(x, core.initial_state(len(QUESTIONS)))
    T, B, heads, _ = program.key.shape
    program = program._replace(value=torch.eye(T, dtype=x.dtype)[:, None, None].expand(T, B, heads, T))
    weights, _ = execute(program, x.new_zeros(B, heads, T, SIZE))
    return weights[-1, :, :, :-1].sum(1)  # a question is put to one head, and the other reads nothing


@torch.no_grad()
def programmer(memory: Memory) -> tuple[RotaryFastWeights, Tensor]:
    """Return a core whose projections are its inputs, and the inputs [steps, questions, D].

    A letter is a key of the first head. The second head has the same key at every step. Both heads store the number.
    """
    given = 3 * HEADS * SIZE + 2 * HEADS
    core = RotaryFastWeights(given, HEADS * SIZE, num_heads=HEADS, conv_size=1, output_gate=False, **memory.options)
    core.double()
    core.projection.weight.copy_(torch.eye(given))
    core.projection.bias.zero_()
    core.taps.fill_(1)
    nothing, off = torch.zeros(SIZE), -60.0
    keep, clear = (8.0, -8.0) if memory.gated else [math.log(DECAY / (1 - DECAY))] * 2

    def step(queries: list[Tensor], keys: list[Tensor], value: Tensor, beta: float, alpha: float) -> Tensor:
        gates = torch.tensor([beta, alpha], dtype=torch.float64).repeat_interleave(HEADS)
        return torch.cat([*queries, *keys, *[value] * HEADS, gates]).double()

    def written(symbols: str) -> Tensor:
        if symbols == NEW_ROUND:
            return step([nothing] * HEADS, [nothing] * HEADS, nothing, off, clear)
        letter, number = symbols
        keys = [one_hot(LETTERS, letter), CLOCK]
        return step([nothing] * HEADS, keys, one_hot(NUMBERS, number), -off, keep)

    def asked(question: Question) -> Tensor:
        if question.letter is None:
            angle = -2 * math.pi * AGO * torch.tensor(core.turns[1])
            queries = [nothing, turn(CLOCK, angle.cos(), angle.sin())]
        else:
            queries = [one_hot(LETTERS, question.letter), nothing]
        return step(queries, [nothing] * HEADS, nothing, off, keep)

    steps = torch.stack([written(symbols) for symbols in EPISODE])
    last = torch.stack([asked(question) for question in QUESTIONS])
    return core, torch.cat([steps[:, None].expand(-1, len(QUESTIONS), -1), last[None]])


def one_hot(symbols: str, symbol: str) -> Tensor:
    """Return a vector [SIZE] that is 1 at the symbol's index."""
    return F.one_hot(torch.tensor(symbols.index(symbol)), SIZE).float()


def weights() -> dict[str, Tensor]:
    """Return the weights of every row of the figure by its title; the first row's are scaled to at most 1."""
    states = state_weights()
    return {FIRST: states / states.max(), **{memory.title: value_weights(memory) for memory in MEMORIES}}


def draw(theme: Theme = "light") -> Figure:
    """Draw a row for each memory, a column for each question, and a bar for the weight of each step."""
    with themed(theme) as palette:
        figure = Figure(figsize=(4.4, 6.6), layout="constrained")
        rows = weights()
        grid = figure.subplots(len(rows), len(QUESTIONS), sharex=True, sharey=True)
        for (title, values), line in zip(rows.items(), grid, strict=True):
            line[0].set_title(title, loc="left", fontsize=10)
            for axes, question, bars in zip(line, QUESTIONS, values.tolist(), strict=True):
                _bars(axes, bars, question.place, palette)
        for axes, question in zip(grid[0], QUESTIONS, strict=True):
            heading = f"{question.words}\nright: {question.answer}"
            axes.text(0.5, 1.3, heading, ha="center", va="bottom", transform=axes.transAxes)
        figure.supylabel("weight of the step in the read", fontsize=9)
        figure.supxlabel("step", fontsize=9)
    return figure


def _bars(axes: Axes, heights: list[float], place: int | None, palette: Palette) -> None:
    """Draw bars over the steps; the step that holds the answer has its own colour."""
    steps = range(len(EPISODE))
    axes.bar(steps, heights, color=[palette.lines[0] if t == place else palette.lines[1] for t in steps], width=0.75)
    axes.axhline(0, color=palette.ink, linewidth=0.8)
    axes.set_xticks(steps, EPISODE)
    axes.set_yticks([0, 1])
    axes.set_ylim(-0.3, 1.05)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def pictures(folder: Path) -> Iterator[Path]:
    """Draw the figure into a folder, light and dark."""
    for theme in PALETTES:
        path = folder / f"{NAME}-{theme}.svg"
        save(draw(theme), path)
        yield path
