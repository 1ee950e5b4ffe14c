"""Figures of a trace: attention, activity of the units, and growth of the fast weights."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fwagents.figures.style import LINES, Theme, ramp_of, themed
from fwagents.inspection.traces import Trace


def attention_matrix(
    trace: Trace, row: int = 0, *, inner_step: int = -1, names: Sequence[str] | None = None, theme: Theme = "light"
) -> Figure:
    """Draw the size of every step's part in the read of every step, for one row of a trace; a panel for each head.

    All heads share one colour scale. A step of ``FastWeights`` reads the writes of earlier steps. A programmer's step
    also reads its own write, and the title says so.

    Args:
        trace: trace of a core with a fast memory, see ``Trace.parts``. For another core the figure shows the
            attribution, with each row divided by its sum.
        row: episode or sequence.
        inner_step: read of each step that is drawn; the last by default.
        names: names of the steps, such as the characters of a string; numbers by default.
        theme: "light" or "dark".

    Raises:
        ValueError: the trace has neither attention nor attribution.
    """
    shown = trace.row(row)
    if shown.attention is not None:
        panels, label = shown.parts(inner_step)[:, 0].swapaxes(0, 1), "size of the part in the read"
        own = shown.reads_own_write
        seen = "its own write included" if own else "which holds the steps before it"
        title = f"What each step reads from the fast memory,\n{seen}"
    elif shown.attribution is not None:
        sizes = shown.attribution[:, 0]
        # Shares are drawn, because all gradients are close to zero where an agent is sure of its action.
        shares = sizes / np.maximum(sizes.sum(1, keepdims=True), np.finfo(float).tiny)
        panels, label, own, title = shares[None], "share of the gradient", True, "What moves the score of each step"
    else:
        raise ValueError("the trace has neither attention nor attribution, expected one of them")
    heads, T = panels.shape[:2]
    columns = heads if heads <= 3 else math.ceil(heads**0.5)
    rows = -(-heads // columns)
    size = (6.0, 5.0) if heads == 1 else (2.7 * columns + 1.2, 2.7 * rows + 0.9)
    lookable = np.tri(T, k=0 if own else -1, dtype=bool)
    with themed(theme) as palette:
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for place, (axes, weights) in enumerate(zip(grid, panels, strict=False)):
            scale: dict[str, Any] = {"cmap": ramp_of(palette.ramp), "vmin": 0, "vmax": panels.max() or 1.0}
            image = axes.imshow(np.where(lookable, weights, np.nan), **scale)
            if names is None:
                _count_steps(axes, T, both=True, most=12 if heads == 1 else 6)
            else:
                axes.set_xticks(range(T), names)
                axes.set_yticks(range(T), names)
            left, lowest = place % columns == 0, place + columns >= heads
            axes.tick_params(labelleft=left, labelbottom=lowest)
            axes.set(xlabel="step looked back at" if lowest else "", ylabel="step that looks" if left else "")
            axes.set_title(f"head {place + 1}" if heads > 1 else title)
        for axes in grid[heads:]:
            axes.set_axis_off()
        if heads > 1:
            figure.suptitle(title, fontsize="medium")
        figure.colorbar(image, ax=list(grid), label=label, shrink=0.9).outline.set_visible(False)
    return figure


def unit_traces(trace: Trace, row: int = 0, *, theme: Theme = "light") -> Figure:
    """Draw the units at every step, in the order of their peaks, without units that are never active."""
    shown = trace.row(row)
    hidden = shown.hidden[:, 0].T
    active = hidden[np.abs(hidden).max(axis=1) > 0]
    ordered = active[np.argsort(np.abs(active).argmax(axis=1), kind="stable")]
    with themed(theme) as palette:
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        axes = figure.subplots()
        if ordered.size and ordered.min() < 0:
            largest = np.abs(ordered).max()
            scale: dict[str, Any] = {"cmap": ramp_of(palette.split), "vmin": -largest, "vmax": largest}
        else:
            scale = {"cmap": ramp_of(palette.ramp), "vmin": 0}
        image = axes.imshow(ordered, aspect="auto", interpolation="nearest", **scale)
        figure.colorbar(image, label="activity").outline.set_visible(False)
        silent = len(hidden) - len(active)
        title = f"{len(active)} units" + (f"; {silent} are silent throughout" if silent else "")
        axes.set(xlabel="step", ylabel="unit, in the order of their peaks", title=title)
        axes.set_yticks([])
        _count_steps(axes, hidden.shape[1])
    return figure


def memory_growth(trace: Trace, *, theme: Theme = "light") -> Figure:
    """Draw the norm and the effective rank of the fast weights over the steps, a colour for each head.

    Thin lines are rows of the trace; thick lines are the mean of the rows that have not ended.

    Raises:
        ValueError: the trace has no norm and effective rank.
    """
    if trace.norm is None or trace.effective_rank is None:
        raise ValueError("the trace has no norm and effective rank, expected one of fast weights, with growth=True")
    valid, (rows, heads) = trace.valid, trace.norm.shape[1:]
    with themed(theme) as palette:
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        for axes, values, label in ((upper, trace.norm, "norm"), (lower, trace.effective_rank, "effective rank")):
            for head in range(heads):
                turn, place = divmod(head, len(palette.lines))
                look: dict[str, Any] = {"color": palette.lines[place], "linestyle": LINES[turn % len(LINES)]}
                for b in range(rows):
                    T = int(trace.length[b])
                    axes.plot(range(T), values[:T, b, head], alpha=0.35, linewidth=1, **look)
                mean = np.where(valid, values[..., head], 0).sum(1) / valid.sum(1)
                axes.plot(mean, linewidth=2.5, label=f"head {head + 1}", **look)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.grid()
        upper.set_title("The fast weights" + (f" in {rows} episodes, and the mean" if rows > 1 else " in an episode"))
        if heads > 1:
            handles = upper.get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
        lower.set_xlabel("step")
        _count_steps(lower, len(trace.start))
    return figure


def _count_steps(axes: Axes, T: int, both: bool = False, most: int = 12) -> None:
    """Label the axis with about ``most`` step numbers, from 1."""
    places = MaxNLocator(min(T, most), integer=True, steps=[1, 2, 5, 10]).tick_values(1, T)
    ticks = sorted({1, *(int(place) for place in places if 1 <= place <= T)})
    axes.set_xticks([tick - 1 for tick in ticks], [str(tick) for tick in ticks])
    if both:
        axes.set_yticks([tick - 1 for tick in ticks], [str(tick) for tick in ticks])
