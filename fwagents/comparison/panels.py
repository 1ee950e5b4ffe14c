"""Runs side by side: a panel for each environment, in it a setting's seeds averaged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwagents.comparison.curves import Band, Curve, NoReturns, band, common_steps
from fwagents.comparison.estimates import Average, Estimate, means, steps_to
from fwagents.comparison.labels import find_runs, grouped
from fwagents.comparison.run_files import Measure, RunFiles

NEVER = float("inf")
SHARE = 0.9  # of the way from the lowest first return to the best final one: the level, if none is given
UNKNOWN = "environment not recorded"
Measured = dict[str, list[tuple[RunFiles, Curve]]]  # the runs with their learning curves, by label


@dataclass(frozen=True)
class Seed:
    """A run, as measured.

    Attributes:
        folder: the run's folder.
        curve: its learning curve.
        final: its final return.
        steps_to_level: steps at which the curve is first at the panel's level; None if it never is.
        steps_per_second: environment steps per second; None if not recorded.
        finished: False if a run of ``fwagents agent`` has not ended yet.
    """

    folder: Path
    curve: Curve
    final: float
    steps_to_level: int | None
    steps_per_second: float | None
    finished: bool


@dataclass(frozen=True)
class Setting:
    """The seeds of one setting.

    Attributes:
        label: what tells it from the other settings.
        seeds: its runs.
        final: average of their final returns, with its interval.
        band: their learning curve on the panel's steps.
    """

    label: str
    seeds: tuple[Seed, ...]
    final: Estimate
    band: Band

    @property
    def reached(self) -> int:
        """Number of seeds that reached the level."""
        return sum(seed.steps_to_level is not None for seed in self.seeds)

    @property
    def steps_to_level(self) -> float | None:
        """Median over the seeds, where a seed that never reached the level counts as infinite; None if infinite."""
        found = median(NEVER if seed.steps_to_level is None else seed.steps_to_level for seed in self.seeds)
        return None if found == NEVER else float(found)

    @property
    def steps_per_second(self) -> float | None:
        """Mean over the seeds that recorded it; None if none did."""
        found = [seed.steps_per_second for seed in self.seeds if seed.steps_per_second is not None]
        return fmean(found) if found else None


@dataclass(frozen=True)
class Panel:
    """The settings that ran in one environment.

    Attributes:
        environment: id and arguments of the environment.
        measure: "evaluation" or "training": which returns are compared.
        window: training episodes in a mean.
        average: "mean" or "iqm".
        level: return to which the steps are counted.
        level_is: the rule or option that the level comes from.
        steps: common steps [T] of the curves.
        settings: the best final return first.
        also_differ: options that differ between settings without being in their labels.
        left_out: runs without returns, with the reason.
    """

    environment: str
    measure: Measure
    window: int
    average: Average
    level: float
    level_is: str
    steps: NDArray[np.int64]
    settings: tuple[Setting, ...]
    also_differ: tuple[str, ...]
    left_out: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The table, a dict for each setting; what is not known is None."""
        return [
            {
                "environment": self.environment,
                "setting": setting.label,
                "seeds": len(setting.seeds),
                "final_return": setting.final.value,
                "low": or_none(setting.final.low),
                "high": or_none(setting.final.high),
                "level": self.level,
                "steps_to_level": setting.steps_to_level,
                "reached": setting.reached,
                "steps_per_second": setting.steps_per_second,
                "finished": sum(seed.finished for seed in setting.seeds),
                "measure": self.measure,
            }
            for setting in self.settings
        ]


def compare(
    paths: Iterable[Path | str],
    *,
    level: float | None = None,
    group_by: Sequence[str] = (),
    measure: Measure | None = None,
    window: int = 100,
    average: Average = "mean",
) -> list[Panel]:
    """Compare runs of ``fwagents agent`` and of Stable-Baselines3, seed by seed.

    Args:
        paths: folders of runs, folders above runs, or patterns of folders.
        level: return to which the steps are counted; None for 90 % of the way from the lowest first return of a
            setting to the best final one.
        group_by: what makes runs seeds of one setting: options of ``fwagents agent``, "name", "parent" or "run";
            empty for all options that differ, or the folder's name without its number where a run has no options.
        measure: "evaluation" or "training"; None for evaluations where every setting of an environment has some.
        window: number of training episodes in a mean.
        average: "mean", or "iqm", the mean of the middle half of the seeds.

    Returns:
        A panel for each environment.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a file is damaged, no run has a return yet, or a run does not have what it is grouped by.
    """
    environments: dict[str, list[RunFiles]] = {}
    for run in find_runs(map(Path, paths)):
        environments.setdefault(run.environment or UNKNOWN, []).append(run)
    panels, reasons = [], []
    for environment, runs in environments.items():
        groups, also_differ = grouped(runs, group_by)
        each_has = all(any(run.has_evaluations() for run in group) for group in groups.values())
        chosen = measure or ("evaluation" if each_has else "training")
        curves, left_out = _curves(groups, chosen, window)
        reasons += left_out
        if curves:
            finals = {
                label: np.array([run.final(chosen, found) for run, found in measured])
                for label, measured in curves.items()
            }
            estimates = means(finals, average)
            steps = common_steps([found for measured in curves.values() for _, found in measured])
            target, level_is = (level, "as given") if level is not None else _level(curves, estimates)
            settings = [
                Setting(
                    label,
                    tuple(_seed(*pair, final, target) for pair, final in zip(measured, finals[label], strict=True)),
                    estimates[label],
                    band([found for _, found in measured], steps, average),
                )
                for label, measured in curves.items()
            ]
            settings.sort(key=lambda setting: -setting.final.value)
            measured_by = (environment, chosen, window, average, target, level_is, steps)
            panels.append(Panel(*measured_by, tuple(settings), tuple(also_differ), tuple(left_out)))
    if not panels:
        raise ValueError(f"no run has returns to compare: {reasons[0]}")
    return panels


def _curves(groups: dict[str, list[RunFiles]], measure: Measure, window: int) -> tuple[Measured, list[str]]:
    """Return the learning curves by label, and the runs that have none with the reason."""
    found: Measured = {}
    left_out = []
    for label, runs in groups.items():
        for run in runs:
            try:
                found.setdefault(label, []).append((run, run.curve(measure, window)))
            except NoReturns as reason:
                left_out.append(f"{run.folder}: {reason}")
    return {label: measured for label, measured in found.items() if measured}, left_out


def _level(curves: Measured, finals: dict[str, Estimate]) -> tuple[float, str]:
    """Return the level if none is given, and how it was chosen."""
    first = min(fmean(found.returns[0] for _, found in measured) for measured in curves.values())
    best = max(final.value for final in finals.values())
    return first + SHARE * (best - first), f"{SHARE:.0%} of the way from the lowest first return to the best final one"


def _seed(run: RunFiles, measured: Curve, final: float, level: float) -> Seed:
    finished = run.config is None or bool(run.result)
    return Seed(run.folder, measured, float(final), steps_to(level, *measured), run.steps_per_second, finished)


def or_none(value: float) -> float | None:
    """Return a number as JSON and CSV hold it: None for NaN."""
    return None if np.isnan(value) else value
