"""A learning curve, and several of them on common steps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwagents.comparison.estimates import Average, Scores, averaged, intervals

MOST_POINTS = 200  # common steps, if the curves have more


class NoReturns(ValueError):
    """A run has no returns of the wanted kind, or not yet; the message says why."""


class Curve(NamedTuple):
    """Returns [N] and the environment steps [N], ascending, after which each was measured."""

    steps: NDArray[np.int64]
    returns: Scores


class Band(NamedTuple):
    """A setting's curve over the common steps [T].

    Attributes:
        value: mean or interquartile mean [T] of the seeds that are there; NaN where none is.
        low, high: ends [T] of its 95 % interval; NaN with less than two seeds.
        seeds: number of seeds [T].
    """

    value: Scores
    low: Scores
    high: Scores
    seeds: NDArray[np.int64]


def curve(steps: Sequence[float] | NDArray[np.int64], returns: Sequence[float] | Scores) -> Curve:
    """Return a curve in order of its steps, with one finite return at each step: the last one given."""
    at, values = np.asarray(steps, np.int64), np.asarray(returns, float)
    at, values = at[np.isfinite(values)], values[np.isfinite(values)]
    order = np.argsort(at, kind="stable")
    at, values = at[order], values[order]
    last = np.append(np.diff(at) > 0, True)[: len(at)]
    return Curve(at[last], values[last])


def common_steps(curves: Sequence[Curve]) -> NDArray[np.int64]:
    """All steps at which any of the curves was measured; if there are many, as many evenly spaced ones over them."""
    steps = np.unique(np.concatenate([each.steps for each in curves]))
    if len(steps) > MOST_POINTS:
        steps = np.linspace(steps[0], steps[-1], MOST_POINTS).round().astype(np.int64)
    return steps


def aligned(curves: Sequence[Curve], steps: NDArray[np.int64]) -> Scores:
    """Return the curves on common steps [curves, T]: linear between measurements, NaN outside a curve's own steps."""
    return np.array([np.interp(steps, *each, left=np.nan, right=np.nan) for each in curves])


def band(curves: Sequence[Curve], steps: NDArray[np.int64], average: Average = "mean") -> Band:
    """Average the seeds' curves on common steps, with the interval over the seeds that are there."""
    scores = aligned(curves, steps)
    there = np.isfinite(scores)
    value, low, high = np.full((3, len(steps)), np.nan)
    for present in np.unique(there, axis=1).T:
        at = (there == present[:, None]).all(0)
        seeds = scores[present][:, at]
        if len(seeds) == 1:
            value[at] = seeds[0]
        elif len(seeds) > 1:
            points, bounds = intervals({"": seeds}, lambda s: averaged(s, average))
            value[at], (low[at], high[at]) = points[""], bounds[""]
    return Band(value, low, high, there.sum(0))
