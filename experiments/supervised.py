"""The common part of the supervised tables: cells with equal searches, and results as tables and claims.

Every cell of a table gets the same search on validation data, with seeds that are reported nowhere: learning rates far
apart, then the neighbours of the best, then the other schedule. For fast weights and the IRNN a last stage tries their
own constants.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.cell import Cell, Grid, Run, Setting, Stage, Times
from experiments.document import table
from experiments.figures import NAMES
from fwagents.runs.folder import read_json

SEEDS = (0, 1, 2)
NOT_RUN = "not run"
# A claim, the measured value, and whether the claim holds; None if a run is missing.
Claim = tuple[str, str, bool | None]
# The setting that a core's search begins with, and the stages that it tries last.
Own = tuple[Setting, tuple[Stage, ...]]
NOTHING: Own = ({}, ())


def rates(first: str, second: str) -> tuple[Stage, ...]:
    """Return the stages: learning rates far apart with one schedule, neighbours of the best, then the other schedule.

    A constant schedule is not tried: trials are shorter than the reported runs, which gives it an advantage.
    """
    return (
        tuple({"learning_rate": rate, "lr_schedule": first} for rate in (5e-4, 2e-3, 8e-3)),
        ({"learning_rate": Times(0.5)}, {"learning_rate": Times(2.0)}),
        ({"lr_schedule": second},),
    )


def cell(group: str, label: str, name: str, script: str, options: Setting, updates: int, ms: float, grid: Grid) -> Cell:
    """Return a cell that trains for ``updates`` updates, of ``ms`` milliseconds each, with its grid's best setting."""
    return Cell(group, label, name, {**options, "updates": updates}, script, SEEDS, updates * ms / 1000, grid)


class Results:
    """The runs of the cells.

    Args:
        folder: the folder of the results.
        cells: the cells.
        measure: the number of a run that is reported.
    """

    def __init__(self, folder: Path, cells: Iterable[Cell], measure: str = "test_error") -> None:
        self.cells, self.measure = {cell.name: cell for cell in cells}, measure
        self.runs: dict[str, list[Run]] = {}
        for name, cell in self.cells.items():
            paths = [cell.path(folder, seed) for seed in cell.seeds]
            self.runs[name] = [run for path in paths if (run := read_json(path)) is not None]

    def errors(self, name: str) -> list[float]:
        """Return each seed's reported number: a test error in percent, or bits."""
        return [run[self.measure] for run in self.runs[name] if run[self.measure] is not None]

    def mean(self, name: str) -> float | None:
        """Return the mean over the seeds; None if a seed is missing."""
        errors = self.errors(name)
        return statistics.fmean(errors) if len(errors) == len(self.cells[name].seeds) else None

    def points(self, names: dict[int, str]) -> dict[int, tuple[float, float | None]]:
        """Return means and standard errors of the existing runs, by size."""
        return {x: (statistics.fmean(e), standard_error(e)) for x, name in names.items() if (e := self.errors(name))}

    def text(self, name: str) -> str:
        """Return mean and standard error, and the number of seeds if it is not three, as text."""
        errors, seeds = self.errors(name), len(self.cells[name].seeds)
        if not errors:
            return NOT_RUN
        spread = standard_error(errors)
        text = f"{statistics.fmean(errors):.2f}" + ("" if spread is None else f" ± {spread:.2f}")
        if len(errors) < seeds:
            return f"{text} ({len(errors)} of {seeds} seeds)"
        return text if seeds == 3 else f"{text} ({seeds} seed{'s' * (seeds > 1)})"


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def at_most(results: Results, name: str, target: float, words: str) -> Claim:
    """Return the claim that a mean, to the two decimals that the paper prints, is at most a target."""
    mean = results.mean(name)
    return words, results.text(name), None if mean is None else round(mean, 2) <= target


def no_worse(results: Results, name: str, others: Sequence[str], words: str) -> Claim:
    """Return the claim that a cell's mean is at most every other cell's."""
    means = [results.mean(other) for other in [name, *others]]
    if None in means:
        return words, NOT_RUN, None
    shown = f"{results.text(name)} against {', '.join(results.text(other) for other in others)}"
    ours, *theirs = [mean for mean in means if mean is not None]
    return words, shown, ours <= min(theirs)


def verdicts(claims: Iterable[Claim], unit: str = "%") -> str:
    """Return claims as a table."""
    words = {True: "yes", False: "no", None: NOT_RUN}
    return table(
        ("claim", f"measured, {unit}", "holds"), [(claim, shown, words[holds]) for claim, shown, holds in claims]
    )


def compared(
    results: Results,
    labels: Sequence[str],
    sizes: Sequence[int],
    name: Callable[[str, int], str],
    paper: dict[str, Any],
    head: str,
) -> str:
    """Return a table of test errors, with the paper's error beside ours if it has one at that size."""
    printed = [size for size in sizes if any(size in row for row in paper.values())]
    columns = [c for size in sizes for c in ([f"{head} {size}", "paper"] if size in printed else [f"{head} {size}"])]
    rows = []
    for label in labels:
        row = [NAMES[label]]
        for size in sizes:
            row.append(results.text(name(label, size)))
            if size in printed:
                theirs = paper.get(label, {}).get(size)
                row.append("" if theirs is None else f"{theirs:g}")
        rows.append(row)
    return table(("test error, %", *columns), rows)


def settings(results: Results, names: Iterable[str]) -> str:
    """Return a table of the searches' choices and the runs' costs, as far as they exist."""
    head = (
        "cell",
        "learning rate",
        "schedule",
        "decay",
        "fast rate",
        "W at first",
        "budget",
        "updates",
        "ms an update",
        "weights",
    )
    rows = []
    for name in names:
        runs = results.runs[name]
        if runs:
            config = runs[0]["config"]
            memory = [runs[0]["core_kwargs"].get(option) for option in ("decay", "fast_lr", "identity_scale")]
            updates = statistics.fmean(run["updates"] for run in runs)
            ms = statistics.median(1000 * run["seconds"] / run["updates"] for run in runs)
            rows.append(
                (
                    *(name, f"{config['learning_rate']:g}", config["lr_schedule"]),
                    *("" if value is None else f"{value:g}" for value in memory),
                    *(f"{config['updates']:,}", f"{updates:,.0f}", f"{ms:.1f}", f"{runs[0]['parameters']:,}"),
                )
            )
    return table(head, rows) if rows else f"Settings: {NOT_RUN}."


def provenance(results: Results, group: str) -> str:
    """Say how many runs exist, at which commits and versions of torch."""
    cells = [cell for cell in results.cells.values() if cell.group == group]
    runs = [run for cell in cells for run in results.runs[cell.name]]
    commits = sorted({str(run["commit"]) for run in runs})
    torches = sorted({run["versions"]["torch"] for run in runs})
    made = f", at {'commit' if len(commits) == 1 else 'commits'} {', '.join(commits)}, torch {', '.join(torches)}"
    return f"`make results`: {len(runs)} of {sum(len(c.seeds) for c in cells)} runs are there{made if runs else ''}."
