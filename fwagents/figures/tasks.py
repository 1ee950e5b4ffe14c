"""Figures of the supervised tasks: the characters or image patches that a memory attends to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fwagents.figures.style import Theme, ramp_of, themed
from fwagents.inspection.traces import Array


def retrieval_strings(
    strings: Sequence[str], weights: Array, answers: Sequence[str], said: Sequence[str], *, theme: Theme = "light"
) -> Figure:
    """Draw strings such as ``c9k8j3f1??c``, each character coloured by its share of the last character's read.

    A memory with several heads has a line for each head; the shares of all lines of a string sum to 1.

    Args:
        strings: N strings of one length T.
        weights: weights in the last character's read [N, heads, T], 0 or more, such as ``Trace.parts()[-1]``.
        answers: correct answers.
        said: answers of the model.
        theme: "light" or "dark".
    """
    N, heads, T = weights.shape
    shares = weights / np.maximum(weights.sum((1, 2), keepdims=True), np.finfo(float).tiny)
    pitch = heads + (heads > 1)  # lines from a string to the next, with an empty line between strings of several lines
    lines = np.full((N, pitch, T), np.nan)
    lines[:, :heads] = shares
    with themed(theme) as palette:
        size = (0.42 * T + 3.2, 0.48 * N + 1.3) if heads == 1 else (0.42 * T + 4.0, 0.42 * N * pitch + 1.0)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        ramp = ramp_of(palette.ramp)
        drawn = lines.reshape(-1, T)[: N * pitch - (heads > 1)]
        image = axes.imshow(drawn, cmap=ramp, vmin=0, vmax=max(float(shares.max()), 1e-12))
        for n, (text, answer, word) in enumerate(zip(strings, answers, said, strict=True)):
            top = n * pitch
            for head, t in np.ndindex(heads, T):
                colour = _on(image.to_rgba(shares[n, head, t]))
                axes.text(t, top + head, text[t], ha="center", va="center", color=colour, size=13)
            outline: dict[str, Any] = {"fill": False, "edgecolor": palette.lines[1], "lw": 2}
            axes.add_patch(Rectangle((T - 1.48, top - 0.48), 0.96, heads - 0.04, **outline))
            verdict = f"says {word}, right" if word == answer else f"says {word}, not {answer}"
            axes.text(T - 0.3, top, verdict, va="center")
        axes.set_xlim(-0.5, T + 2.4)
        axes.set_xticks(range(T), [str(t + 1) for t in range(T)])
        axes.set(xlabel="character", title="What the last character (outlined) looks back at")
        if heads == 1:
            axes.set_yticks([])
        else:
            places = [n * pitch + head for n in range(N) for head in range(heads)]
            axes.set_yticks(places, [f"head {head + 1}" for head in range(heads)] * N)
            axes.tick_params(left=False)
            axes.set_ylabel("strings, head by head")
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, label="share of the read", shrink=0.7, pad=0.01, aspect=20 if heads == 1 else 50)
        bar.outline.set_visible(False)
    return figure


def glimpse_sequence(
    image: Array,
    boxes: Sequence[tuple[int, int, int]],
    weights: Array,
    *,
    looks: int = 6,
    title: str = "",
    theme: Theme = "light",
) -> Figure:
    """Draw the share of every glimpse in the last glimpse's read: on the image, and for each glimpse.

    Args:
        image: image [S, S].
        boxes: row, column and side of every glimpse, in pixels.
        weights: weight of every glimpse in the last glimpse's read [T], 0 or more, summed over heads.
        looks: glimpses in a line.
        title: description of the image.
        theme: "light" or "dark".
    """
    shares = weights / max(float(weights.sum()), np.finfo(float).tiny)
    most = max(float(shares.max()), 1e-12)
    with themed(theme) as palette:
        figure = Figure(figsize=(9.5, 3.9), layout="constrained")
        whole, patches = figure.subplots(1, 2, width_ratios=[1, 1.5])
        grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": image.max()}
        whole.imshow(image, **grey)
        strongest = [place for place in np.argsort(-shares)[:looks].tolist() if shares[place] > 0]
        for place in reversed(strongest):
            row, column, side = boxes[place]
            strength = float(shares[place]) / most
            fill = (*to_rgb(palette.lines[1]), 0.45 * strength)
            line: dict[str, Any] = {"edgecolor": palette.lines[1], "linewidth": 0.5 + 3 * strength}
            whole.add_patch(Rectangle((column - 0.5, row - 0.5), side, side, facecolor=fill, **line))
        found = f"the {len(strongest)} most attended patches" if strongest else "the last glimpse reads nothing"
        whole.set(title=title, xlabel=found, xticks=[], yticks=[])
        ramp, pitch = ramp_of(palette.ramp), (1.3, 1.55)
        for place, (row, column, side) in enumerate(boxes):
            x, y = pitch[0] * (place % looks), pitch[1] * (place // looks)
            last = place == len(boxes) - 1
            patches.imshow(image[row : row + side, column : column + side], extent=(x, x + 1, y + 1, y), **grey)
            edge = palette.lines[1] if last else ramp(float(shares[place]) / most)
            patches.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor=edge, linewidth=4))
            share = f"{float(shares[place]):.0%}"
            words = share if not last else f"looks, {share}" if shares[place] else "looks"
            patches.text(x + 0.5, y + 1.08, words, ha="center", va="top")
        patches.set_title("in the order in which they are seen: share of what the last one reads")
        patches.set_xlim(-0.1, pitch[0] * looks - 0.2)
        patches.set_ylim(pitch[1] * -(-len(boxes) // looks), -0.1)
        patches.set_axis_off()
    return figure


def _on(colour: Any) -> str:
    """Return black or white, whichever is legible on ``colour``, by its luminance."""
    red, green, blue = colour[:3]
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
