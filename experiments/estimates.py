"""Learning curves of several seeds, from the kept results: areas, final returns, steps until a game is solved."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.agents import kept_runs
from experiments.cell import Cell, Run
from fwagents.comparison.estimates import Scores, steps_to

SOLVED = 0.9


class Curves:
    """The runs of one environment and algorithm, by the label of their line.

    Args:
        results: folder of the results.
        cells: the cells.
    """

    def __init__(self, results: Path, cells: Sequence[Cell]) -> None:
        self.first = cells[0].label
        found = {cell.label: kept_runs(results, cell) for cell in cells}
        self.runs = {label: runs for label, runs in found.items() if runs}

    def all(self) -> list[Run]:
        """The runs of every line."""
        return [run for runs in self.runs.values() for run in runs]

    def steps(self) -> list[int]:
        """Return the steps at which the first run was evaluated; those of other runs differ by a few."""
        steps: list[int] = next(iter(self.runs.values()))[0]["steps"]
        return steps

    def curves(self, label: str) -> Scores:
        """Return the mean returns [seeds, evaluations]."""
        return np.array([run["mean_return"] for run in self.runs[label]])

    def areas(self, label: str) -> Scores:
        """Return each seed's mean of its curve [seeds]."""
        return self.curves(label).mean(1)

    def finals(self, label: str) -> Scores:
        """Return the trained agents' mean returns over fresh episodes [seeds]."""
        return np.array([run["final"]["mean_return"] for run in self.runs[label]])

    def reached(self, label: str) -> list[int | None]:
        """Return the steps at which each seed first reached the level that counts as solved; None for never."""
        return [reached(run) for run in self.runs[label]]


def reached(run: Run) -> int | None:
    """Steps at which a run was first seen at the level that counts as solved; None for never."""
    return steps_to(SOLVED, run["steps"], run["mean_return"])
