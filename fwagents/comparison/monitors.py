"""Files of Stable-Baselines3's ``Monitor``: a run's training episodes, from one file or one file an environment."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwagents.comparison.curves import Curve, NoReturns, curve
from fwagents.comparison.estimates import Scores


class Monitor(NamedTuple):
    """Content of one file.

    Attributes:
        env: id of the environment; None if the file does not name it.
        started: time at which the file was begun, in seconds since 1970.
        returns: return of each episode [N], in the order in which they ended.
        lengths: number of steps of each episode [N].
        times: time at which each episode ended [N], in seconds since 1970; never falling.
    """

    env: str | None
    started: float
    returns: Scores
    lengths: NDArray[np.int64]
    times: Scores


class Episodes(NamedTuple):
    """Episodes [N] of all environments of a run, in the order in which they ended.

    Attributes:
        steps: steps of all episodes up to this one together [N], as SB3's ``ts2xy`` counts them.
        returns: [N].
        seconds: since the run began [N].
    """

    steps: NDArray[np.int64]
    returns: Scores
    seconds: Scores


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a log without a last line that is still being written."""
    text = path.read_bytes().decode(errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def read_monitor(path: Path) -> Monitor | None:
    """Read a file; None if it has no header yet. A last line without its end is still being written and is left out.

    Raises:
        ValueError: the file is damaged; the message names it and the line.
    """
    lines = whole_lines(path)
    if len(lines) < 2:
        return None
    try:
        header = json.loads(lines[0].removeprefix("#"))
        env, started = header.get("env_id"), float(header.get("t_start", 0.0))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged: line 1 is {lines[0][:60]!r}, expected # and a JSON object") from None
    reader = csv.DictReader(lines[1:])
    rows = []
    for row in reader:
        try:
            rows.append((float(row["r"]), int(float(row["l"])), float(row["t"])))
        except (KeyError, TypeError, ValueError, OverflowError):
            shown = lines[reader.line_num][:60]
            raise ValueError(
                f"{path} is damaged: line {reader.line_num + 1} is {shown!r}, expected numbers r, l and t"
            ) from None
    returns, lengths, times = zip(*rows, strict=True) if rows else ((), (), ())
    return Monitor(
        env, started, np.array(returns, float), np.array(lengths, np.int64), started + _running(np.array(times, float))
    )


def _running(times: Scores) -> Scores:
    """Seconds since the start [N] that go on where a resumed run began to count from 0 again."""
    before, after = times[:-1], times[1:]
    # Within a file of several environments, whose clocks began milliseconds apart, times also dip a little.
    times = times + np.append(np.zeros(min(1, len(times))), np.cumsum(np.where(after < before / 2, before, 0)))
    return np.maximum.accumulate(times) if len(times) else times


def merged(files: Sequence[Monitor]) -> Episodes:
    """Merge the episodes of a run's files by the time at which they ended, each file's in its own order."""
    returns, lengths, times = (
        np.concatenate([getattr(each, name) for each in files]) for name in ("returns", "lengths", "times")
    )
    order = np.argsort(times, kind="stable")
    started = min(each.started for each in files)
    return Episodes(np.cumsum(lengths[order]), returns[order], times[order] - started)


def moving_mean(episodes: Episodes, window: int) -> Curve:
    """Mean return of the last ``window`` episodes, from the first step on at which there are so many.

    Raises:
        NoReturns: there are fewer episodes.
    """
    count = len(episodes.returns)
    if count < window:
        shown = f"{count} episodes" if count > 1 else "one episode" if count else "no episode"
        raise NoReturns(f"{shown} so far, expected at least {window}, the window of the mean")
    returns = np.lib.stride_tricks.sliding_window_view(episodes.returns, window).mean(-1)
    return curve(episodes.steps[window - 1 :], returns)
