"""Numbers of several seeds: their mean or interquartile mean, its 95 % interval by bootstrap, steps to a level.

The bootstrap is rliable's (Agarwal et al., 2021, https://arxiv.org/abs/2108.13264), to the last bit, in NumPy alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

REPS = 5_000  # bootstrap samples
PERCENTILES = (2.5, 97.5)
Scores = NDArray[np.float64]
Average = Literal["mean", "iqm"]


class Estimate(NamedTuple):
    """A number and its 95 % interval, by stratified bootstrap over the seeds; the ends are NaN with a single seed."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.spelled(2)

    def spelled(self, decimals: int) -> str:
        """Return the estimate as text, with so many decimals."""
        interval = "one seed" if math.isnan(self.low) else f"{self.low:.{decimals}f} to {self.high:.{decimals}f}"
        return f"{self.value:.{decimals}f} ({interval})"


def intervals(
    scores: Mapping[str, Scores | tuple[Scores, ...]], function: Callable[..., Scores]
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Point estimates, and the ends of their 95 % percentile intervals, by stratified bootstrap. Always the same.

    Args:
        scores: arrays [seeds, ...] by label, or tuples of arrays, which are resampled independently. Every place of
            the other axes draws its seeds by itself.
        function: the estimate [N] of an array, or of the arrays of a tuple.

    Returns:
        The estimates [N] and the ends [2, N], by label.
    """
    rng = np.random.RandomState(0)  # its stream is the same under every version of NumPy
    points, bounds = {}, {}
    for label, found in scores.items():
        arrays = found if isinstance(found, tuple) else (found,)
        points[label] = function(*arrays)
        draws = [
            function(*(np.take_along_axis(each, rng.choice(len(each), each.shape), 0) for each in arrays))
            for _ in range(REPS)
        ]
        bounds[label] = np.percentile(draws, PERCENTILES, axis=0)
    return points, bounds


def averaged(scores: Scores, average: Average = "mean") -> Scores:
    """Mean over the seeds of scores [seeds, ...], or mean of their middle half, the interquartile mean."""
    cut = len(scores) // 4 if average == "iqm" else 0
    middle = np.sort(scores, axis=0)[cut : len(scores) - cut] if cut else scores
    return np.asarray(middle.mean(0))


def means(scores: Mapping[str, Scores], average: Average = "mean") -> dict[str, Estimate]:
    """Mean or interquartile mean over seeds of numbers [seeds], by label."""
    points, bounds = intervals({k: v[:, None] for k, v in scores.items()}, lambda s: averaged(s, average))
    ends: dict[str, Any] = {
        k: bounds[k][:, 0].tolist() if len(v) > 1 else [math.nan, math.nan] for k, v in scores.items()
    }
    return {k: Estimate(float(points[k][0]), *ends[k]) for k in scores}


def steps_to(level: float, steps: Sequence[int] | NDArray[np.int64], values: Sequence[float] | Scores) -> int | None:
    """Steps at which a curve is first seen at a level or above; None if it never is."""
    return next((int(at) for at, value in zip(steps, values, strict=True) if value >= level), None)
