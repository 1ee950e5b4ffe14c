"""Learning curves of settings side by side, a panel for each environment."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from fwagents.figures.style import LINES, Theme, themed

if TYPE_CHECKING:
    from fwagents.comparison import Panel

COLUMNS = 2  # panels in a row


def learning_curves(panels: "Sequence[Panel]", *, theme: Theme = "light") -> Figure:
    """Draw every setting's curve with its 95 % interval over the seeds, and the level.

    A line is thin where some seeds of its setting have no measurement.

    Args:
        panels: as ``fwagents.comparison.compare`` returns them.
        theme: "light" or "dark".
    """
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    with themed(theme) as palette:
        figure = Figure(figsize=(6.4 if columns == 1 else 5.2 * columns, 4.6 * rows), layout="constrained")
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, panel in zip(places, panels, strict=False):
            steps = panel.steps
            for number, setting in enumerate(panel.settings):
                turn, place = divmod(number, len(palette.lines))
                colour, (value, low, high, seeds) = palette.lines[place], setting.band
                whole = seeds == len(setting.seeds)
                partly = ~whole
                partly[1:] |= ~whole[:-1]
                partly[:-1] |= ~whole[1:]
                count = f"{len(setting.seeds)} seeds" if len(setting.seeds) > 1 else "one seed"
                look: dict[str, Any] = {"color": colour, "linestyle": LINES[turn % len(LINES)]}
                axes.plot(steps, np.where(whole, value, np.nan), label=f"{setting.label} ({count})", **look)
                axes.plot(steps, np.where(partly, value, np.nan), linewidth=0.7, **look)
                axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.axhline(panel.level, color=palette.ink, alpha=0.5, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set(xlabel="environment steps", ylabel=f"{panel.measure} return", title=panel.environment)
            axes.grid()
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize="small")
        for axes in places[len(panels) :]:
            axes.set_axis_off()
    return figure
