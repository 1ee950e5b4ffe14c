"""Environments with a hidden part, against the original environments step by step."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence

from fwagents.envs import ENVIRONMENTS, reference_returns
from fwagents.envs.hidden import CART_POLE, HideObservation

WHOLE = {"CartPoleNoVel-v1": ("CartPole-v1", [0, 2]), "PendulumNoVel-v1": ("Pendulum-v1", [0, 1])}

LOW = np.arange(4, dtype=np.float32) - 9


class Echo(gymnasium.Env):
    """An environment with any observation space, whose observation counts up."""

    def __init__(self, observation_space):
        self.observation_space, self.action_space = observation_space, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.arange(4, dtype=np.float32), {}


def echo(space=None):
    return Echo(space or spaces.Box(LOW, LOW + 18, (4,), np.float32))


def test_all_that_are_registered_are_tested():
    assert set(WHOLE) == {name for name, environment in ENVIRONMENTS.items() if "hidden" in environment.tags}


@pytest.mark.parametrize("name", WHOLE)
def test_it_is_the_whole_one_without_the_hidden_part(name):
    whole_name, shown = WHOLE[name]
    env, whole = gymnasium.make(name), gymnasium.make(whole_name)
    assert env.spec.max_episode_steps == whole.spec.max_episode_steps
    assert env.spec.reward_threshold == whole.spec.reward_threshold
    space = whole.observation_space
    assert env.observation_space == spaces.Box(space.low[shown], space.high[shown], dtype=space.dtype)
    assert env.action_space == whole.action_space
    env.action_space.seed(0)
    for seed in (3, None, 4):
        observation, info = env.reset(seed=seed)
        expected, expected_info = whole.reset(seed=seed)
        over = False
        while not over:
            assert observation.shape == (2,)
            assert data_equivalence(observation, expected[shown], exact=True)
            assert info == expected_info
            action = env.action_space.sample()
            observation, *rest, info = env.step(action)
            expected, *expected_rest, expected_info = whole.step(action)
            assert rest == expected_rest
            over = rest[1] or rest[2]


@pytest.mark.parametrize("name", WHOLE)
def test_the_hidden_part_can_not_be_told(name):
    """Two states that differ only in the hidden part have the same observation."""
    env = gymnasium.make(name)
    env.reset(seed=0)
    inner = env.unwrapped
    looks = []
    for speed in (0.1, 0.9):
        inner.state = np.array([0.3, speed] if name.startswith("Pendulum") else [0.01, speed, 0.02, speed])
        whole = inner._get_obs() if name.startswith("Pendulum") else inner.state.astype(np.float32)
        looks.append(env.get_wrapper_attr("observation")(whole).tolist())
    assert looks[0] == looks[1]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_made_mid_episode_plays_on_identically(name, duplicate):
    env = gymnasium.make(name)
    env.reset(seed=1)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(6)]
    for action in actions[:3]:
        env.step(action)
    twin = duplicate(env)
    for action in actions[3:]:
        assert data_equivalence(env.step(action), twin.step(action), exact=True)


@pytest.mark.parametrize("name", WHOLE)
def test_its_spec_makes_it_again(name):
    env = gymnasium.make(name)
    again = gymnasium.make(env.spec)
    assert str(again) == str(env)
    assert data_equivalence(env.reset(seed=2), again.reset(seed=2), exact=True)


@pytest.mark.parametrize("hidden", [[1, 3], ["cart velocity", "pole angular velocity"], ("cart velocity", np.int64(3))])
def test_entries_are_named_or_numbered(hidden):
    env = HideObservation(echo(), hidden, CART_POLE)
    assert env.observation_space == spaces.Box(LOW[[0, 2]], LOW[[0, 2]] + 18)
    assert env.reset()[0].tolist() == [0, 2]


def test_what_is_shown_has_the_names_that_are_left():
    meanings = "get_observation_meanings"
    assert gymnasium.make("CartPoleNoVel-v1").get_wrapper_attr(meanings)() == ["cart position", "pole angle"]
    assert HideObservation(echo(), [1, 3], CART_POLE).get_observation_meanings() == ["cart position", "pole angle"]
    assert HideObservation(echo(), [1, 3]).get_observation_meanings() is None


@pytest.mark.parametrize(
    ("space", "hidden", "names", "error", "message"),
    [
        (None, ["speed"], CART_POLE, ValueError, "'speed', expected one of 'cart position', 'cart velocity'"),
        (None, ["cart velocity"], None, ValueError, "'cart velocity', expected indices"),
        (None, "cart velocity", CART_POLE, TypeError, "the string 'cart velocity'"),
        (None, [4], None, ValueError, "index 4, expected one from 0 to 3"),
        (None, [-1], None, ValueError, "index -1, expected one from 0 to 3"),
        (None, [1.0], None, TypeError, r"got 1\.0"),
        (None, [True], None, TypeError, "got True"),
        (None, [], None, ValueError, r"from 1 to 3 different entries of 4, got \(\)"),
        (None, [1, 1], None, ValueError, r"different entries of 4, got \(1, 1\)"),
        (None, [0, "cart position"], CART_POLE, ValueError, "different entries"),
        (None, [0, 1, 2, 3], None, ValueError, "from 1 to 3"),
        (None, [0], ["a", "b"], ValueError, r"names must be 4.*got 2: \('a', 'b'\)"),
        (spaces.Discrete(4), [0], None, TypeError, r"one-dimensional Box, got Discrete\(4\)"),
        (spaces.Box(0, 1, (2, 2)), [0], None, TypeError, "one-dimensional Box, got Box"),
    ],
)
def test_bad_arguments_are_named(space, hidden, names, error, message):
    with pytest.raises(error, match=message):
        HideObservation(echo(space), hidden, names)


def test_their_returns_are_not_known_exactly():
    with pytest.raises(ValueError, match=r"Catch-v0, .*got 'CartPoleNoVel-v1'"):
        reference_returns("CartPoleNoVel-v1")
