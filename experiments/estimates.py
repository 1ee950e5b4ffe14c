"""Learning curves of several seeds: areas, final returns, steps to a level, and their 95 % intervals (rliable)."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.agents import kept_runs
from experiments.cell import Cell, Run

REPS = 5_000  # bootstrap samples
SOLVED = 0.9
Scores = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its 95 % interval, by stratified bootstrap over the seeds; NaN if there is only one seed."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = "one seed" if math.isnan(self.low) else f"{self.low:.2f} to {self.high:.2f}"
        return f"{self.value:.2f} ({interval})"


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
    """Return the steps at which a run first reached the level that counts as solved; None for never."""
    return next((at for at, value in zip(run["steps"], run["mean_return"], strict=True) if value >= SOLVED), None)


def intervals(scores: dict[str, Any], function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return rliable's point and interval estimates, with a fixed seed."""
    from rliable.library import get_interval_estimates

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # rliable calls a dependency in a deprecated way
        # rliable draws from NumPy's global generator, whichever generator it is given.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            found: tuple[dict[str, Any], dict[str, Any]] = get_interval_estimates(scores, function, reps=REPS)
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return found


def means(scores: dict[str, Scores]) -> dict[str, Estimate]:
    """Return the mean over seeds of numbers [seeds], by label."""
    points, bounds = intervals({k: v[:, None] for k, v in scores.items()}, lambda s: np.array([s.mean()]))
    ends = {k: bounds[k][:, 0].tolist() if len(v) > 1 else [math.nan, math.nan] for k, v in scores.items()}
    return {k: Estimate(float(points[k][0]), *ends[k]) for k in scores}
