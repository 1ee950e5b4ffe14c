"""A comparison as text of 80 columns, and as JSON or CSV."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from fwagents.comparison.estimates import Scores
from fwagents.comparison.panels import Panel, or_none
from fwagents.files import replacing
from fwagents.runs.folder import write_json

WIDTH = 80
ROOM = 5  # columns left of a curve
LEVELS = "▁▂▃▄▅▆▇█"


def show(panels: Sequence[Panel], console: Console | None = None) -> None:
    """Print a table and a line of each setting's curve for every environment."""
    console = console or Console(width=WIDTH, markup=False, emoji=False, highlight=False)
    for panel in panels:
        console.print(_table(panel))
        for line in (*_curves(panel), *notes(panel)):
            console.print(line)
        console.print()


def measured(panel: Panel) -> str:
    """Name the returns that are compared."""
    training = f"training return, mean of the last {panel.window} episodes"
    return "evaluation return" if panel.measure == "evaluation" else training


def _table(panel: Panel) -> Table:
    decimals = _decimals([*(setting.final.value for setting in panel.settings), panel.level])
    table = Table(
        title=f"{panel.environment}: {measured(panel)}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left"
    )
    table.add_column("", justify="right")
    table.add_column("setting", overflow="fold")
    for head in ("seeds", f"final {panel.average}", f"steps to {panel.level:.{decimals}f}", "steps/s"):
        table.add_column(head, justify="right", no_wrap=True)
    for number, setting in enumerate(panel.settings, 1):
        at, speed, count = setting.steps_to_level, setting.steps_per_second, len(setting.seeds)
        table.add_row(
            str(number),
            setting.label,
            str(count),
            setting.final.spelled(decimals),
            f"{_steps(at)} ({setting.reached}/{count})",
            "" if speed is None else f"{speed:,.0f}",
        )
    return table


def _steps(steps: float | None) -> str:
    if steps is None:
        return "never"
    return f"{steps:,.0f}" if steps < 10_000 else f"{steps / 1000:,.0f}k"


def _decimals(values: Sequence[float]) -> int:
    """Number of decimals that shows the largest value with three digits, below 1 with two."""
    largest = max(map(abs, values))
    return 2 if largest == 0 else min(max(2 - math.floor(math.log10(largest)) - (largest < 1), 0), 6)


def _curves(panel: Panel) -> list[str]:
    """The settings' curves by their number in the table, a line each; empty where a setting has no seed."""
    values = np.concatenate([setting.band.value for setting in panel.settings])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if len(panel.steps) < 2 or low == high:
        return []
    places = np.linspace(panel.steps[0], panel.steps[-1], WIDTH - ROOM)
    decimals = _decimals([low, high])
    title = f"steps {panel.steps[0]:,} to {panel.steps[-1]:,}, returns {low:.{decimals}f} to {high:.{decimals}f}"
    drawn = [np.interp(places, panel.steps, setting.band.value) for setting in panel.settings]
    lines = [f"{number:{ROOM - 1}} {bars(values, low, high)}".rstrip() for number, values in enumerate(drawn, 1)]
    return [" " * ROOM + title, *lines]


def bars(values: Scores, low: float, high: float) -> str:
    """Return a bar for each value between two ends; a space for NaN."""
    heights = (values - low) / (high - low) * (len(LEVELS) - 1)
    return "".join(" " if np.isnan(height) else LEVELS[round(float(height))] for height in heights)


def notes(panel: Panel) -> list[str]:
    """Say where the level comes from, how to read the table, and what is missing in it."""
    average = "mean" if panel.average == "mean" else "mean of the middle half"
    lines = [
        f"Level: {panel.level_is}. Steps to it: median over the seeds (how many reached it).",
        f"Final: {average} over the seeds and its 95 % bootstrap interval.",
    ]
    unfinished = sum(not seed.finished for setting in panel.settings for seed in setting.seeds)
    if unfinished:
        lines.append(f"Not finished, and counted as far as they are: {unfinished} of the runs.")
    if panel.also_differ:
        lines.append(f"Options that differ, too: {', '.join(panel.also_differ)}.")
    lines += [f"Left out: {reason}." for reason in panel.left_out]
    return lines


def write_table(panels: Sequence[Panel], path: Path) -> None:
    """Write the rows of all environments as CSV; what is not known is empty."""
    rows = [row for panel in panels for row in panel.rows()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def write_numbers(panels: Sequence[Panel], path: Path) -> None:
    """Write the rows, the curves and the runs of all environments as JSON; what is not known is null."""
    write_json(path, [_numbers(panel) for panel in panels])


def _numbers(panel: Panel) -> dict[str, Any]:
    return {
        "environment": panel.environment,
        "measure": panel.measure,
        "average": panel.average,
        "level": panel.level,
        "level_is": panel.level_is,
        "rows": panel.rows(),
        "steps": panel.steps.tolist(),
        "curves": {
            setting.label: {name: _list(values) for name, values in setting.band._asdict().items()}
            for setting in panel.settings
        },
        "runs": {
            setting.label: [
                {
                    "folder": str(seed.folder),
                    "final_return": seed.final,
                    "steps": int(seed.curve.steps[-1]),
                    "steps_to_level": seed.steps_to_level,
                    "steps_per_second": seed.steps_per_second,
                    "finished": seed.finished,
                }
                for seed in setting.seeds
            ]
            for setting in panel.settings
        },
        "also_differ": list(panel.also_differ),
        "left_out": list(panel.left_out),
    }


def _list(values: Any) -> list[float | None]:
    return [or_none(value) for value in values.tolist()]
