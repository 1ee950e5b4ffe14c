"""One run's folder: its environment, its settings and its learning curves, of fwagents or of Stable-Baselines3."""

import csv
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fwagents.comparison.curves import Curve, NoReturns, curve
from fwagents.comparison.monitors import Episodes, Monitor, merged, moving_mean, read_monitor, whole_lines
from fwagents.runs.folder import CONFIG, RESULT, read_json

EVALUATIONS, PROGRESS, MONITORS, EVENTS = "evaluations.npz", "progress.csv", "*monitor.csv", "events.out.tfevents.*"
FILES = (EVALUATIONS, PROGRESS, MONITORS, EVENTS)  # a folder that holds one of them is a run's
EVALUATED, TRAINED, SPEED, STEPS = "eval/mean_reward", "rollout/ep_rew_mean", "time/fps", "time/total_timesteps"
# np.load of a file that is no archive, a damaged one, or one of objects.
DAMAGED = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile)

Measure = Literal["evaluation", "training"]


class RunFiles:
    """Content of a run's folder; each file is read once, when it is first needed.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """``config.json`` of a run of ``fwagents agent``; None if the run has no such file."""
        found = read_json(self.folder / CONFIG)
        args = found.get("args") if isinstance(found, dict) else None
        return found if isinstance(args, dict) and isinstance(args.get("env"), str) else None

    @cached_property
    def result(self) -> dict[str, Any]:
        """``result.json`` of a finished run of ``fwagents agent``; empty if it is not finished."""
        found = read_json(self.folder / RESULT)
        return found if isinstance(found, dict) and not found.get("resumable") else {}

    @cached_property
    def environment(self) -> str | None:
        """Environment, with its arguments if they are recorded; None if nothing names it."""
        if self.config is not None:
            id_, kwargs = self.config["args"]["env"].rpartition(":")[2], self.config.get("env_kwargs") or {}
            return ", ".join([id_, *(f"{name}={value}" for name, value in sorted(kwargs.items()))])
        return next((each.env for each in self.monitors if each.env), None)

    @cached_property
    def monitors(self) -> list[Monitor]:
        """Files of SB3's Monitor that have a header."""
        found = (read_monitor(path) for path in sorted(self.folder.glob(MONITORS)))
        return [each for each in found if each is not None]

    @cached_property
    def episodes(self) -> Episodes | None:
        """Training episodes; None without files of SB3's Monitor."""
        return merged(self.monitors) if self.monitors else None

    @cached_property
    def scalars(self) -> Mapping[str, Curve]:
        """Logged values by name: from progress.csv if there is one, else from TensorBoard's event files."""
        if (self.folder / PROGRESS).is_file():
            return read_progress(self.folder / PROGRESS)
        return read_events(self.folder) if any(self.folder.glob(EVENTS)) else {}

    @cached_property
    def evaluations(self) -> Curve | None:
        """Mean return of every evaluation; None if there is no record of any."""
        path = self.folder / EVALUATIONS
        return read_evaluations(path) if path.is_file() else self.scalars.get(EVALUATED)

    def has_evaluations(self) -> bool:
        """Return whether the run has been evaluated at least once."""
        return self.evaluations is not None and len(self.evaluations.steps) > 0

    def curve(self, measure: Measure, window: int) -> Curve:
        """Return the learning curve.

        Args:
            measure: "evaluation" for the mean return of each evaluation, "training" for the mean of the last
                ``window`` training episodes, or SB3's own mean where only its log is there.
            window: number of episodes.

        Raises:
            NoReturns: there is none yet.
            ValueError: a file is damaged; the message names it.
        """
        found = self._curve(measure, window)
        if found is None or not len(found.steps):
            raise NoReturns(f"no {measure} returns so far")
        return found

    def _curve(self, measure: Measure, window: int) -> Curve | None:
        if measure == "evaluation":
            return self.evaluations
        if any(self.folder.glob(MONITORS)):
            return None if self.episodes is None else moving_mean(self.episodes, window)
        return self.scalars.get(TRAINED)

    def final(self, measure: Measure, measured: Curve) -> float:
        """Return of the trained agent: of its closing evaluation, else the last of the curve."""
        closing = self.result.get("final_model") if measure == "evaluation" else None
        return float(measured.returns[-1] if closing is None else closing["mean_return"])

    @cached_property
    def steps_per_second(self) -> float | None:
        """Environment steps per second, from the last log line, else over all episodes; None if not recorded."""
        logged = self.scalars.get(SPEED)
        if logged is not None and len(logged.steps):
            return float(logged.returns[-1])
        if self.episodes is None or not len(self.episodes.steps) or self.episodes.seconds[-1] <= 0:
            return None
        return float(self.episodes.steps[-1] / self.episodes.seconds[-1])


def read_evaluations(path: Path) -> Curve:
    """Mean return of every evaluation, from the file of SB3's ``EvalCallback``.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with np.load(path) as found:
            return curve(found["timesteps"], found["results"].mean(1))
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def read_progress(path: Path) -> dict[str, Curve]:
    """Returns and steps per second of the CSV file of SB3's logger. A last line without its end is left out.

    Raises:
        ValueError: the file is damaged; the message names it and the line.
    """
    lines = whole_lines(path)
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in (EVALUATED, TRAINED, SPEED)}
    reader = csv.DictReader(lines)
    for row in reader:
        try:
            for name, (steps, values) in found.items():
                if row.get(name):
                    steps.append(int(float(row.get(STEPS) or "")))
                    values.append(float(row[name]))
        except (ValueError, OverflowError):
            shown = lines[reader.line_num - 1][:60]
            wanted = f"numbers of {STEPS} and of the returns"
            raise ValueError(f"{path} is damaged: line {reader.line_num} is {shown!r}, expected {wanted}") from None
    return {name: curve(*columns) for name, columns in found.items()}


def read_events(folder: Path) -> dict[str, Curve]:
    """Returns and steps per second of a folder's TensorBoard event files, as far as TensorBoard can read them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # Pictures and histograms are left in the files; 0 keeps all scalars.
    kept = {"scalars": 0, "images": 1, "histograms": 1, "compressedHistograms": 1, "tensors": 1, "audio": 1}
    log = EventAccumulator(str(folder), size_guidance=kept).Reload()
    logged = [name for name in (EVALUATED, TRAINED, SPEED) if name in log.Tags()["scalars"]]
    values = {name: log.Scalars(name) for name in logged}
    return {
        name: curve([each.step for each in found], [each.value for each in found]) for name, found in values.items()
    }
