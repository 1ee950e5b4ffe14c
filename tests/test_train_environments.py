"""What --wrappers says, with the same wrappers put on by hand as the truth."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, RescaleObservation, TimeAwareObservation
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.scripts import imported

WRAPPERS = (
    "gymnasium.wrappers:TimeAwareObservation(flatten=False, normalize_time=True)",
    "gymnasium.wrappers:FlattenObservation",
)


@pytest.fixture(scope="module")
def environments():
    return imported("environments")


def by_hand(name):
    return FlattenObservation(TimeAwareObservation(gym.make(name), flatten=False, normalize_time=True))


@pytest.mark.parametrize("name", ["CartPole-v1", "PartialCatch-v0"])
def test_wrappers_go_around_in_order(name, environments):
    environment = environments.Environment(name, {}, tuple(map(environments.wrapper, WRAPPERS)))
    one, many = environment.one(), environment.many(2, seed=3)
    loop = DummyVecEnv([lambda: by_hand(name)] * 2)
    loop.seed(3)
    assert one.observation_space == many.observation_space == by_hand(name).observation_space
    np.testing.assert_array_equal(many.reset(), loop.reset())
    for action in (0, 1, 0):
        for mine, theirs in zip(many.step(np.full(2, action))[:3], loop.step(np.full(2, action))[:3], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_values_are_python_literals(environments):
    wrapped = environments.wrapper("gymnasium.wrappers:RescaleObservation(min_obs=-2, max_obs=2.5)")(
        gym.make("PendulumNoVel-v1")
    )
    assert isinstance(wrapped, RescaleObservation)
    assert (wrapped.observation_space.low.min(), wrapped.observation_space.high.max()) == (-2, 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FlattenObservation", "expected module:Class or"),
        ("gymnasium.wrappers:", "expected module:Class or"),
        ("gymnasium.wrappers:TimeLimit(5)", "expected module:Class or"),
        ("gymnasium.wrappers:TimeLimit(max_episode_steps=n)", "expected module:Class or"),
        ("gymnasium.wrappers:Flatten()()", "expected module:Class or"),
        ("nowhere.at_all:Flatten", "No module named 'nowhere'"),
        ("gymnasium.wrappers:Flatten", "has no attribute 'Flatten'"),
    ],
)
def test_mistakes_are_named(text, message, environments):
    with pytest.raises(ValueError, match=message) as raised:
        environments.wrapper(text)
    assert repr(text) in str(raised.value)
