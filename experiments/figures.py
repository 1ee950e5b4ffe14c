"""The common part of the figures of docs/results.md: a style for each series; PNG and SVG, light and dark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # needs no screen
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.spines import Spine
from matplotlib.text import Text

from fwagents.figures.style import PALETTES, Palette, save

# Okabe and Ito's colours, which colour-blind readers can distinguish; markers and lines differ as well.
STYLES = {
    "fast_weights": ("fast weights", "#0072B2", "o", "-"),
    "multilevel": ("fast weights, multi-level", "#000000", "*", "-"),
    "lstm": ("LSTM", "#D55E00", "s", "--"),
    "associative_lstm": ("associative LSTM", "#009E73", "^", "-."),
    "gru": ("GRU", "#CC79A7", "v", "-."),
    "irnn": ("IRNN", "#E69F00", "D", ":"),
    "convnet": ("ConvNet", "#56B4E9", "P", "--"),
    "none": ("no memory", "#999999", "x", ":"),
    "no_reads": ("no fast memory (S = 0)", "#44AA99", "h", "--"),
    "paper_constants": ("fast weights, the paper's constants", "#996633", "X", "--"),
    "strong": ("fast weights, a rate of 1", "#117733", "d", "-"),
    "rotary": ("rotary fast weights", "#882255", "<", "-"),
    "strong_small": ("fast weights, a rate of 1, W = 0.05 I at first", "#8877DD", "p", "-"),
}
NAMES = {label: style[0] for label, style in STYLES.items()}
# Names that appear in tables only.
NAMES |= {"fast_weights_rate": "fast weights, a rate of 0.5", "fast_weights_raw": "fast weights, h stored as it is"}
NAMES |= {
    "fast_weights_small": "fast weights, W = 0.05 I at first",
    "fast_weights_weak": "fast weights, a rate of 0.01",
}
NAMES |= {"lstm_defaults": "LSTM, defaults", "gru_defaults": "GRU, defaults", "irnn_half": "IRNN, W = 0.5 I at first"}
NAMES |= {"no_reads_small": "no fast memory, W = 0.05 I at first"}
NAMES |= {"lstm_keeping": "LSTM, defaults, forget bias 3", "gru_keeping": "GRU, defaults, update bias 3"}
INKS = {"#000000", *(palette.ink for palette in PALETTES.values())}  # each theme's ink, and plain black
SMALLEST = 0.01  # percent; an axis that reaches zero is linear below this value
WITH_ZERO = 0.1  # percent; errors below it need an axis with a zero

# The mean of the seeds and its standard error, by size (or pairs); the error is None for a single seed.
Points = Mapping[int, tuple[float, float | None]]


def errors(
    path: Path,
    ours: Mapping[str, Points],
    xlabel: str,
    title: str,
    paper: Mapping[str, Mapping[int, float]] | None = None,
) -> None:
    """Draw test errors against a size, with standard errors; the paper's errors are hollow marks."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    ticks = sorted({x for points in ours.values() for x in points})
    for label, points in ours.items():
        name, colour, marker, line = STYLES[label]
        at = sorted(points)
        means, bars = [points[x][0] for x in at], [points[x][1] or 0.0 for x in at]
        axes.errorbar(at, means, bars, color=colour, marker=marker, linestyle=line, capsize=3, label=name)
    hollow: dict[str, Any] = {"fillstyle": "none", "markersize": 10, "linestyle": ""}
    for label, values in (paper or {}).items():
        if label in ours:
            _, colour, marker, _ = STYLES[label]
            axes.errorbar(list(values), list(values.values()), color=colour, marker=marker, **hollow)
    if paper:
        axes.errorbar([], [], color="grey", marker="o", label="the paper's", **hollow)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(x) for x in ticks])
    lowest = min(mean for points in ours.values() for mean, _ in points.values())
    if lowest < WITH_ZERO:
        axes.set_yscale("symlog", linthresh=SMALLEST)
        axes.set_ylim(bottom=-SMALLEST / 5, top=150)
        marks = [0, 0.01, 0.1, 1, 10, 100]
    else:
        axes.set_yscale("log")
        marks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    shown = [y for y in marks if axes.get_ylim()[0] <= y <= axes.get_ylim()[1]]
    axes.set_yticks(shown, [f"{y:g}" for y in shown])
    axes.minorticks_off()
    finish(axes, xlabel, "test error, %", title)
    save_both(figure, path)


def dots(axes: Axes, at: Mapping[float, Sequence[float]], colour: str) -> None:
    """Draw every value at each place."""
    dots = [(place, value) for place, values in at.items() for value in values]
    axes.scatter(*zip(*dots, strict=True) if dots else ((), ()), color=colour, s=9, alpha=0.6)


def finish(axes: Axes, xlabel: str, ylabel: str, title: str) -> None:
    """Give axes their names, a grid and a legend."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def save_both(figure: plt.Figure, path: Path) -> None:
    """Save a figure light, and dark as ``<name>-dark``, as PNG and SVG with reproducible bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, palette in (("", PALETTES["light"]), ("-dark", PALETTES["dark"])):
        _paint(figure, palette)
        for kind in ("svg", "png"):
            save(figure, path.with_name(f"{path.name}{suffix}.{kind}"))
    plt.close(figure)


def _paint(figure: plt.Figure, palette: Palette) -> None:
    """Give a figure a theme's background and ink; the colours of its lines suit both themes."""
    for part in figure.findobj():
        if isinstance(part, (Figure, Axes)):
            part.set_facecolor(palette.ground)
        elif isinstance(part, Text):
            part.set_color(palette.ink)
        elif isinstance(part, (Line2D, LineCollection)):
            colour = np.atleast_1d(np.asarray(part.get_color(), object))[0]
            if to_hex(colour) in INKS:
                part.set_color(palette.ink)
        elif isinstance(part, Spine):
            part.set_edgecolor(palette.faint)
        elif isinstance(part, Legend):
            part.get_frame().set(facecolor=palette.ground, edgecolor=palette.faint)
