"""The bootstrap of fwagents.comparison against rliable's, averages and steps to a level against numbers by hand."""

import math
import warnings

import numpy as np
import pytest

from fwagents.comparison.estimates import REPS, Estimate, averaged, intervals, means, steps_to


def rliables(scores, function):
    """rliable's point and interval estimates; it draws from NumPy's global generator."""
    from rliable.library import get_interval_estimates

    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about how rliable calls the library under it
        found = get_interval_estimates(scores, function, reps=REPS)
    np.random.set_state(state)  # noqa: NPY002
    return found


@pytest.mark.parametrize(
    ("shapes", "function"),
    [
        ([(5, 1)], lambda s: s.mean(0)),
        ([(3, 1, 7), (6, 1, 7)], lambda s: s.mean((0, 1))),
        ([((4, 1), (7, 1))], lambda x, y: np.array([(x > y.T).mean()])),
    ],
    ids=["numbers", "curves", "pairs"],
)
def test_intervals_are_rliables_to_the_last_bit(shapes, function):
    rng = np.random.default_rng(1)
    draw = [
        tuple(map(rng.normal, (0, 0), (1, 1), s)) if len(s) == 2 and isinstance(s[0], tuple) else rng.normal(size=s)
        for s in shapes
    ]
    scores = {str(n): each for n, each in enumerate(draw)}
    theirs = rliables({k: list(v) if isinstance(v, tuple) else v for k, v in scores.items()}, function)
    for mine, expected in zip(intervals(scores, function), theirs, strict=True):
        assert {k: v.tolist() for k, v in mine.items()} == {k: v.tolist() for k, v in expected.items()}


def test_the_interquartile_mean_is_rliables():
    from rliable.metrics import aggregate_iqm

    for seeds in range(1, 14):
        values = np.random.default_rng(seeds).normal(size=(seeds, 1))
        assert averaged(values, "iqm")[0] == pytest.approx(aggregate_iqm(values), abs=1e-12)


def test_averages_by_hand():
    values = np.array([10.0, 1.0, 2.0, 3.0])
    assert averaged(values) == 4.0
    assert averaged(values, "iqm") == 2.5  # without the largest and the smallest
    assert averaged(values[:3], "iqm") == pytest.approx(13 / 3)  # three have no quarter to leave out


def test_one_seed_has_no_interval():
    found = means({"one": np.array([0.5]), "same": np.array([2.0, 2.0])})
    assert str(found["one"]) == "0.50 (one seed)"
    assert math.isnan(found["one"].high)
    assert found["same"] == Estimate(2.0, 2.0, 2.0)


def test_steps_to_a_level():
    assert steps_to(0.9, [10, 20, 30], [0.0, 0.9, 0.1]) == 20
    assert steps_to(0.91, [10, 20, 30], [0.0, 0.9, 0.1]) is None
