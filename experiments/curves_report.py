"""The section of docs/results.md on learning curves, with its figures: who learns sooner, who plays better."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import figures
from experiments.agent_cells import ALGORITHMS, CELLS, AgentCell
from experiments.agent_results import Run, about, kept_runs
from experiments.document import picture, table
from experiments.figures import NAMES

REPS = 5_000  # bootstrap samples
SOLVED = 0.9
ALGORITHM_NAMES = {"memory_ppo": "MemoryPPO", "memory_a2c": "MemoryA2C"}
Scores = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its 95 % interval, by stratified bootstrap over the seeds; NaN where there is but one."""

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

    def __init__(self, results: Path, cells: Sequence[AgentCell]) -> None:
        self.first = cells[0].label
        found = {cell.label: kept_runs(results, cell) for cell in cells}
        self.runs = {label: runs for label, runs in found.items() if runs}

    def all(self) -> list[Run]:
        """Every line's."""
        return [run for runs in self.runs.values() for run in runs]

    def steps(self) -> list[int]:
        """Where the curves were measured, to a few steps: each after whole steps of all its environments."""
        steps: list[int] = next(iter(self.runs.values()))[0]["steps"]
        return steps

    def curves(self, label: str) -> Scores:
        """Mean returns [seeds, evaluations]."""
        return np.array([run["mean_return"] for run in self.runs[label]])

    def areas(self, label: str) -> Scores:
        """Means over the run of each seed's curve [seeds]."""
        return self.curves(label).mean(1)

    def finals(self, label: str) -> Scores:
        """Mean returns of the trained agents over fresh episodes [seeds]."""
        return np.array([run["final"]["mean_return"] for run in self.runs[label]])

    def reached(self, label: str) -> list[int | None]:
        """Steps at which each seed was first seen at the level that counts as solved; None for never."""
        return [reached(run) for run in self.runs[label]]


def reached(run: Run) -> int | None:
    """Steps at which a run was first seen at the level that counts as solved; None for never."""
    return next((at for at, value in zip(run["steps"], run["mean_return"], strict=True) if value >= SOLVED), None)


def intervals(scores: dict[str, Any], function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """rliable's point and interval estimates, always the same."""
    from rliable.library import get_interval_estimates

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about how rliable calls the library under it
        # Whatever generator it is given, rliable draws from the global one.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            found: tuple[dict[str, Any], dict[str, Any]] = get_interval_estimates(scores, function, reps=REPS)
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return found


def means(scores: dict[str, Scores]) -> dict[str, Estimate]:
    """Mean over seeds of numbers [seeds], by label."""
    points, bounds = intervals({k: v[:, None] for k, v in scores.items()}, lambda s: np.array([s.mean()]))
    ends = {k: bounds[k][:, 0].tolist() if len(v) > 1 else [math.nan, math.nan] for k, v in scores.items()}
    return {k: Estimate(float(points[k][0]), *ends[k]) for k in scores}


def bands(curves: Curves) -> dict[str, tuple[Scores, Scores, Scores]]:
    """Mean, lower and upper end of the interval [evaluations], by label."""
    scores = {label: curves.curves(label)[:, None] for label in curves.runs}
    points, bounds = intervals(scores, lambda s: s.mean((0, 1)))
    return {label: (points[label], bounds[label][0], bounds[label][1]) for label in scores}


def larger(x: Scores, y: Scores) -> float:
    """Share of the pairs of one of ``x`` and one of ``y`` [seeds, 1] with the larger in x, where equal ones count half.

    rliable's ``probability_of_improvement`` for one task, which takes eighty times as long.
    """
    return float(((x > y.T) + 0.5 * (x == y.T)).mean())


def improvements(curves: Curves) -> dict[str, Estimate]:
    """Probability that a seed of the first line, fast weights, has the larger area than one of each other line."""
    others = [label for label in curves.runs if label != curves.first]
    if curves.first not in curves.runs or not others:
        return {}
    ours = curves.areas(curves.first)[:, None]
    pairs = {label: (ours, curves.areas(label)[:, None]) for label in others}
    points, bounds = intervals(pairs, lambda x, y: np.array([larger(x, y)]))
    ends = {
        k: bounds[k][:, 0].tolist() if min(len(x), len(y)) > 1 else [math.nan, math.nan] for k, (x, y) in pairs.items()
    }
    return {k: Estimate(float(points[k][0]), *ends[k]) for k in others}


def rows(curves: Curves) -> list[tuple[str, ...]]:
    """Label, area, steps to the level of each seed, final return, and how surely fast weights have the larger area."""
    areas = means({label: curves.areas(label) for label in curves.runs})
    finals = means({label: curves.finals(label) for label in curves.runs})
    improved = improvements(curves)
    return [
        (
            NAMES[label],
            str(areas[label]),
            ", ".join("never" if at is None else f"{at / 1000:,.0f}k" for at in curves.reached(label)),
            str(finals[label]),
            str(improved.get(label, "")),
        )
        for label in curves.runs
    ]


def section(results: Path, folder: Path) -> str:
    """Figures and tables of what was run.

    Args:
        results: folder of the results.
        folder: of the figures.
    """
    parts: list[str] = []
    lines: dict[tuple[str, str], list[AgentCell]] = {}
    for cell in CELLS:
        if cell.group == "curves":
            lines.setdefault((cell.options["env"], cell.options["algo"]), []).append(cell)
    for (env, algo), cells in lines.items():
        curves, options = Curves(results, cells), cells[0].options
        title = ", ".join([env, *options.get("env_kwargs", []), ALGORITHM_NAMES[algo]])
        if not curves.runs:
            parts += [f"{title}: not run."]
            continue
        figure = f"curves-{env}-{ALGORITHMS[algo]}"
        drawn = {label: band for label, band in bands(curves).items() if label in figures.STYLES}
        figures.learning(folder / figure, curves.steps(), drawn, SOLVED, title)
        head = ("core", "area", f"steps to {SOLVED:g}, each seed", "final return", "P(larger area)")
        parts += [
            f"### {title}",
            f"{about(cells, curves.all())} {options['total_timesteps']:,} steps each.",
            picture(folder, figure, f"Mean return against steps, {title}"),
            table(head, rows(curves)),
        ]
    return "\n\n".join(part for part in parts if part)
