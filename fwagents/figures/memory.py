"""Pictures of a trace: what was attended to, what the units did, how the fast weights grew."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fwagents.figures.style import Theme, ramp_of, themed
from fwagents.inspection.traces import Trace


def attention_matrix(
    trace: Trace, row: int = 0, *, inner_step: int = -1, names: Sequence[str] | None = None, theme: Theme = "light"
) -> Figure:
    """The weight of every step before in the read of every step, one row of a trace.

    Args:
        trace: of fast weights; of another core, its attribution is drawn, each row as shares of its sum.
        row: episode or sequence.
        inner_step: which read of each step; the last by default.
        names: of the steps, such as the characters of a string; their numbers by default.
        theme: "light" or "dark".

    Raises:
        ValueError: the trace has neither attention nor attribution.
    """
    shown = trace.row(row)
    T = len(shown.start)
    if shown.attention is not None:
        weights, label = shown.attention[:, 0, inner_step], "weight in the read"
        title = "What each step reads from the fast memory"
        lookable = np.tri(T, k=-1, dtype=bool)
    elif shown.attribution is not None:
        sizes = shown.attribution[:, 0]
        # Shares, for where an agent is sure of its action every gradient is next to nothing.
        weights, label = sizes / np.maximum(sizes.sum(1, keepdims=True), np.finfo(float).tiny), "share of the gradient"
        title = "What moves the score of each step"
        lookable = np.tri(T, dtype=bool)
    else:
        raise ValueError("the trace has neither attention nor attribution, expected one of them")
    with themed(theme) as palette:
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(np.where(lookable, weights, np.nan), cmap=ramp_of(palette.ramp), vmin=0)
        figure.colorbar(image, label=label, shrink=0.9).outline.set_visible(False)
        axes.set(xlabel="step looked back at", ylabel="step that looks", title=title)
        if names is None:
            _count_steps(axes, T, both=True)
        else:
            axes.set_xticks(range(T), names)
            axes.set_yticks(range(T), names)
    return figure


def unit_traces(trace: Trace, row: int = 0, *, theme: Theme = "light") -> Figure:
    """The units at every step, in the order in which they peak; those that are never active are left out."""
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
    """Norm and effective rank of A over the steps: every row, and the mean of those that are not over.

    Raises:
        ValueError: they were not recorded.
    """
    if trace.norm is None or trace.effective_rank is None:
        raise ValueError("the trace has no norm and effective rank, expected one of fast weights, with growth=True")
    valid = trace.valid
    with themed(theme) as palette:
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        for axes, values, label in ((upper, trace.norm, "norm of A"), (lower, trace.effective_rank, "effective rank")):
            for b in range(values.shape[1]):
                T = int(trace.length[b])
                axes.plot(range(T), values[:T, b], color=palette.lines[0], alpha=0.35, linewidth=1)
            mean = np.where(valid, values, 0).sum(1) / valid.sum(1)
            axes.plot(mean, color=palette.lines[0], linewidth=2.5)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.grid()
        rows = values.shape[1]
        upper.set_title("The fast weights" + (f" in {rows} episodes, and the mean" if rows > 1 else " in an episode"))
        lower.set_xlabel("step")
        _count_steps(lower, len(trace.start))
    return figure


def _count_steps(axes: Axes, T: int, both: bool = False) -> None:
    """Whole numbers along the axis, from 1."""
    places = MaxNLocator(min(T, 12), integer=True, steps=[1, 2, 5, 10]).tick_values(1, T)
    ticks = sorted({1, *(int(place) for place in places if 1 <= place <= T)})
    axes.set_xticks([tick - 1 for tick in ticks], [str(tick) for tick in ticks])
    if both:
        axes.set_yticks([tick - 1 for tick in ticks], [str(tick) for tick in ticks])
