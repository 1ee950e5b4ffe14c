"""The counter-based draws: the published hash, and starts that are uniform and independent."""

import gymnasium
import numpy as np
import pytest

from fwagents.envs.catch import CatchEnv
from fwagents.envs.draws import mix


def test_mix_is_splitmix64():
    # The first numbers of the reference implementation seeded with 1234567.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    counters = [(1234567 + 0x9E3779B97F4A7C15 * n) % 2**64 for n in range(1, 6)]
    assert mix(np.array(counters, np.uint64)).tolist() == published


def looks_uniform(counts):
    """Return whether a chi-squared statistic is within four standard deviations of its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    assert expected > 10
    return abs(((counts - expected) ** 2 / expected).sum() - freedom) < 4 * np.sqrt(2 * freedom)


def joint(first, second, shape=(16, 15)):
    counts = np.zeros(shape)
    np.add.at(counts, (first, second), 1)
    return counts


def test_neighbouring_seeds_start_independently():
    env = gymnasium.make_vec("PartialCatch-v0", 6000)
    env.reset(seed=0)
    state = env.get_state()
    assert looks_uniform(joint(state["ball"], state["paddle"]))
    assert looks_uniform(joint(state["ball"][1:], state["ball"][:-1], (16, 16)))


@pytest.mark.parametrize("seed", [0, 1])
def test_episodes_start_independently(seed):
    env = CatchEnv()
    env.reset(seed=seed)
    starts = []
    for _ in range(6000):
        env.reset()
        starts.append(env.get_state())
    ball, paddle = (np.concatenate([start[name] for start in starts]) for name in ("ball", "paddle"))
    assert looks_uniform(joint(ball, paddle))
    assert looks_uniform(joint(ball[1:], ball[:-1], (16, 16)))
    assert looks_uniform(joint(ball[1:], paddle[:-1]))


def test_lists_are_drawn_independently():
    env = gymnasium.make_vec("RepeatPrevious-v0", 6000, symbols=10)
    env.reset(seed=0)
    sequence = env.get_state()["sequence"]
    assert sequence.shape == (6000, 20)
    for before in (1, 7, 19):
        assert looks_uniform(joint(sequence[:, before], sequence[:, 0], (10, 10)))
    assert looks_uniform(joint(sequence[1:, 0], sequence[:-1, -1], (10, 10)))
    assert looks_uniform(np.bincount(sequence.ravel()))


def test_keys_are_different_and_all_orders_are_as_likely():
    env = gymnasium.make_vec("KeyValueRecall-v0", 20_000, pairs=26)
    env.reset(seed=0)
    state = env.get_state()
    keys, values, asked = state["keys"], state["values"], state["asked"]
    assert (np.sort(keys, axis=1) == np.arange(26)).all()
    for first, second in ((0, 1), (3, 25)):
        pairs = joint(keys[:, first], keys[:, second], (26, 26))
        assert not pairs.diagonal().any()
        assert looks_uniform(pairs[~np.eye(26, dtype=bool)])
    assert looks_uniform(joint(values[:, 0], values[:, 25], (10, 10)))
    assert looks_uniform(joint(keys[:, 0], values[:, 0], (26, 10)))
    assert looks_uniform(joint(asked, values[:, 1], (26, 10)))


def test_the_check_of_uniformity_can_fail():
    rng = np.random.default_rng(0)
    ball = rng.integers(16, size=6000)
    assert looks_uniform(joint(ball, rng.integers(15, size=6000)))
    assert not looks_uniform(joint(ball, np.minimum(ball, 14)))
    assert not looks_uniform(joint(ball, rng.permuted(np.arange(6000) % 15) * 14 // 15))
    assert not looks_uniform(joint(np.arange(6000) % 16, np.arange(6000) % 15))
