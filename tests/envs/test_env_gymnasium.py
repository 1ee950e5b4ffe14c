"""Gymnasium's own tools on this package's environments: specifications, wrappers of batches, odd actions."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from fwagents.envs import ENVIRONMENTS, register_envs

register_envs()
BATCHED = [name for name, environment in ENVIRONMENTS.items() if environment.vector_entry_point]
AROUND = {
    "FlattenObservation": {},
    "DtypeObservation": {"dtype": np.float64},
    "ClipReward": {"min_reward": -0.2, "max_reward": 0.3},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("made", [False, True])
def test_a_specification_survives_json(name, made):
    spec = gym.make(name).spec if made else gym.spec(name)
    again = EnvSpec.from_json(spec.to_json())
    assert again == spec
    first, second = gym.make(spec), gym.make(again)
    assert data_equivalence(first.reset(seed=1), second.reset(seed=1))


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(
    "kwargs", [{}, {"num_envs": 3}, {"vectorization_mode": "sync"}, {"render_mode": "rgb_array", "num_envs": 2}]
)
def test_a_batch_is_made_again_from_its_specification(name, kwargs):
    first = gym.make_vec(name, **kwargs)
    second = gym.make_vec(first.spec)
    assert type(first) is type(second)
    for attribute in ("spec", "num_envs", "observation_space", "action_space", "render_mode"):
        assert getattr(first, attribute) == getattr(second, attribute), attribute


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("wrapper", AROUND)
def test_a_wrapper_around_the_batch_equals_wrappers_inside(name, wrapper):
    outside = getattr(wrappers.vector, wrapper)(gym.make_vec(name, 3), **AROUND[wrapper])
    inside = gym.make_vec(
        name, 3, vectorization_mode="sync", wrappers=(lambda env: getattr(wrappers, wrapper)(env, **AROUND[wrapper]),)
    )
    assert outside.observation_space == inside.observation_space
    assert outside.single_observation_space == inside.single_observation_space
    assert outside.action_space == inside.action_space
    assert data_equivalence(outside.reset(seed=5), inside.reset(seed=5))
    inside.action_space.seed(0)
    for _ in range(60):
        actions = inside.action_space.sample()
        assert data_equivalence(outside.step(actions), inside.step(actions))


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_actions_that_do_not_fit_are_named(name, mode):
    env = gym.make_vec(name, 3, autoreset_mode=mode)
    env.reset(seed=0)
    odd = [(0, TypeError), (np.int64(0), TypeError), (None, TypeError), ("left", TypeError), ([0, 0], ValueError)]
    odd += [(np.zeros(4, int), ValueError), (np.zeros((3, 1), int), ValueError), (np.zeros(3), InvalidAction)]
    for actions, error in odd:
        with pytest.raises(error, match="actions must"):
            env.step(actions)
    env.step((0, 0, 0))
