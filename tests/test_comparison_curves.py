"""Monitor files and curves against numbers by hand, brute force and Stable-Baselines3's own readers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwagents.comparison.curves import MOST_POINTS, Curve, NoReturns, aligned, band, common_steps, curve
from fwagents.comparison.monitors import Episodes, merged, moving_mean, read_monitor


def write(path, rows, start=100.0, env="Game-v0"):
    """A file of Monitor; rows are return, length and seconds since the start."""
    lines = [f"#{json.dumps({'t_start': start, 'env_id': env})}", "r,l,t", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_two_environments_take_turns(tmp_path):
    """By hand: the second began half a second later, and its episodes end at 101.5 and 103.5."""
    one = write(tmp_path / "0.monitor.csv", [(1.0, 10, 1.0), (2.0, 20, 2.0)])
    other = write(tmp_path / "1.monitor.csv", [(5.0, 3, 1.0), (6.0, 4, 3.0)], start=100.5)
    found = merged([read_monitor(one), read_monitor(other)])
    assert found.returns.tolist() == [1, 5, 2, 6]
    assert found.steps.tolist() == [10, 13, 33, 37]
    assert found.seconds.tolist() == [1, 1.5, 2, 3.5]


def test_a_resumed_run_counts_its_seconds_on(tmp_path):
    """Its clock begins again at 0. Clocks of several environments in one file dip by milliseconds."""
    path = write(tmp_path / "monitor.csv", [(1, 1, 5.0), (2, 1, 9.0), (3, 1, 8.999), (4, 1, 1.0), (5, 1, 2.0)])
    found = merged([read_monitor(path)])
    assert found.returns.tolist() == [1, 2, 3, 4, 5]
    assert found.seconds == pytest.approx([5, 9, 9, 9.999, 10.999])


EPISODE = st.tuples(st.integers(-5, 5), st.integers(1, 50), st.integers(1, 9))  # return, length, seconds it takes


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 20), st.lists(EPISODE, min_size=1, max_size=12)), min_size=1, max_size=4))
def test_merging_is_by_the_time_at_which_episodes_end(tmp_path_factory, envs):
    folder = tmp_path_factory.mktemp("monitors")
    ended, files = [], []
    for n, (start, episodes) in enumerate(envs):
        rows, clock = [], 0
        for place, (reward, length, seconds) in enumerate(episodes):
            clock += seconds
            rows.append((float(reward), length, float(clock)))
            ended.append((start + clock, n, place, reward, length))
        files.append(write(folder / f"{n}.monitor.csv", rows, start=float(start)))
    found = merged([read_monitor(path) for path in files])
    ended.sort()
    assert found.returns.tolist() == [each[3] for each in ended]
    assert found.steps.tolist() == np.cumsum([each[4] for each in ended]).tolist()
    assert found.seconds.tolist() == [each[0] - min(start for start, _ in envs) for each in ended]


def test_sb3_reads_the_same(tmp_path):
    from stable_baselines3.common.monitor import load_results
    from stable_baselines3.common.results_plotter import ts2xy, window_func

    rng = np.random.default_rng(0)
    for n in range(3):
        times = np.cumsum(rng.uniform(0.1, 2, 40)).round(6)
        rows = list(zip(rng.normal(size=40).round(6), rng.integers(1, 90, 40), times, strict=True))
        write(tmp_path / f"{n}.monitor.csv", rows, start=float(rng.uniform(0, 5)))
    found = merged([read_monitor(path) for path in sorted(tmp_path.glob("*.csv"))])
    theirs = load_results(str(tmp_path))
    steps, returns = ts2xy(theirs, "timesteps")
    assert found.steps.tolist() == steps.tolist()
    assert found.returns.tolist() == returns.tolist()
    assert found.seconds == pytest.approx(theirs.t.to_numpy())
    at, values = window_func(steps, returns, 7, np.mean)
    mean = moving_mean(found, 7)
    assert mean.steps.tolist() == at.tolist()
    assert mean.returns == pytest.approx(values)


def test_a_file_that_is_being_written(tmp_path):
    path = write(tmp_path / "monitor.csv", [(1.0, 10, 1.0)])
    path.write_text(path.read_text() + "2.0,1")
    assert read_monitor(path).returns.tolist() == [1]
    path.write_text("#{")
    assert read_monitor(path) is None
    assert len(read_monitor(write(path, [])).returns) == 0


@pytest.mark.parametrize(
    ("line", "text", "shown"),
    [
        (1, "r,l,t", "line 1 is 'r,l,t'"),
        (1, "#[]", "line 1 is '#[]'"),
        (2, "a,b", "line 3"),
        (4, "2.0,x,2", "line 4 is '2.0,x,2'"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, line, text, shown):
    path = write(tmp_path / "monitor.csv", [(1.0, 10, 1.0), (2.0, 1, 2.0)])
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="is damaged: ") as found:
        read_monitor(path)
    assert str(found.value).startswith(f"{path} is damaged: {shown}")


def test_a_moving_mean_begins_when_its_window_is_full():
    episodes = Episodes(np.array([2, 4, 6, 8]), np.array([0.0, 1.0, 2.0, 6.0]), np.arange(4.0))
    found = moving_mean(episodes, 3)
    assert (found.steps.tolist(), found.returns.tolist()) == ([6, 8], [1, 3])
    with pytest.raises(NoReturns, match="4 episodes so far, expected at least 5"):
        moving_mean(episodes, 5)


def test_a_curve_is_in_order_and_has_one_return_at_a_step():
    found = curve([30, 10, 20, 10, 40], [3.0, 1.0, float("nan"), 1.5, float("inf")])
    assert (found.steps.tolist(), found.returns.tolist()) == ([10, 30], [1.5, 3])
    assert len(curve([], []).steps) == 0


def test_nothing_is_made_up_beyond_a_curve_s_end():
    long, short = curve([0, 10, 20], [0.0, 1.0, 2.0]), curve([5, 15], [4.0, 6.0])
    steps = common_steps([long, short])
    assert steps.tolist() == [0, 5, 10, 15, 20]
    nan = float("nan")
    np.testing.assert_equal(aligned([long, short], steps), [[0, 0.5, 1, 1.5, 2], [nan, 4, 5, 6, nan]])
    found = band([long, short], steps)
    assert found.value.tolist() == [0, 2.25, 3, 3.75, 2]
    assert found.seeds.tolist() == [1, 2, 2, 2, 1]
    np.testing.assert_equal(found.low, [nan, 0.5, 1, 1.5, nan])  # of two seeds, the lower one
    np.testing.assert_equal(found.high, [nan, 4, 5, 6, nan])


def test_many_steps_are_thinned_to_evenly_spaced_ones():
    steps = common_steps([Curve(np.arange(0, 5_001), np.zeros(5_001))])
    assert (len(steps), steps[0], steps[-1]) == (MOST_POINTS, 0, 5_000)
    assert set(np.diff(steps)) <= {25, 26}
