"""The parts that ``PreviousStep`` adds, against values written by hand."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence

from fwagents.envs import ENVIRONMENTS
from fwagents.envs.wrappers import PreviousStep


class Scripted(gymnasium.Env):
    """An environment with a constant observation, rewards 0.5, -2, 0.5, and episodes of three steps."""

    def __init__(self, observation, observation_space, action_space):
        self.observation, self.observation_space, self.action_space = observation, observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation, {}

    def step(self, action):
        self.t += 1
        if isinstance(action, np.ndarray):
            action[...] = 0  # the observation must hold the action as it was given
        return self.observation, (0.5, -2.0)[self.t % 2 - 1], self.t == 3, False, {"t": self.t}


# A space, an action, the action's part of the observation, and the bounds of that part.
ACTIONS = {
    "discrete": (spaces.Discrete(3), 2, [0, 0, 1], 0, 1),
    "discrete from 5": (spaces.Discrete(3, start=5), 6, [0, 1, 0], 0, 1),
    "multi discrete": (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), [0, 1, 0, 0, 1], 0, 1),
    "multi discrete from 1": (spaces.MultiDiscrete([2, 3], start=[1, 1]), np.array([1, 3]), [1, 0, 0, 0, 1], 0, 1),
    "multi discrete of two rows": (spaces.MultiDiscrete([[2], [2]]), np.array([[0], [1]]), [1, 0, 0, 1], 0, 1),
    "multi binary": (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1], 0, 1),
    "box": (spaces.Box(-2, 3, (2, 1), np.float32), np.array([[-1.5], [3]], np.float32), [-1.5, 3], -2, 3),
    # Zeros open an episode, so the bounds of the part include 0.
    "box above zero": (spaces.Box(1, 3, (2,), np.float64), np.array([1.0, 2.5]), [1, 2.5], 0, 3),
    "box below zero": (spaces.Box(-3, -1, (1,), np.int8), np.array([-2], np.int8), [-2], -3, 0),
    "tuple": (spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(1)]), (1, np.array([1], np.int8)), [0, 1, 1], 0, 1),
}
VECTOR = spaces.Box(-1, 1, (2,), np.float32)
SEEN = np.array([0.25, -1], np.float32)
# A space and an observation.
OBSERVATIONS = {
    "image": (spaces.Box(0, 255, (4, 4, 3), np.uint8), np.full((4, 4, 3), 7, np.uint8)),
    "matrix": (spaces.Box(-1, 1, (2, 2), np.float32), np.zeros((2, 2), np.float32)),
    "number": (spaces.Box(-1, 1, (), np.float32), np.zeros((), np.float32)),
    "discrete": (spaces.Discrete(4), np.int64(3)),
    "multi discrete": (spaces.MultiDiscrete([2, 2]), np.array([0, 1])),
    "multi binary": (spaces.MultiBinary(2), np.array([0, 1], np.int8)),
    "tuple": (spaces.Tuple([VECTOR, spaces.Discrete(2)]), (SEEN, np.int64(1))),
    "text": (spaces.Text(5), "abc"),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_every_kind_of_action_is_told(kind):
    space, action, told, low, high = ACTIONS[kind]
    env = PreviousStep(Scripted(SEEN, VECTOR, space))
    ends = [-np.inf, np.inf]
    bounds = zip([-1, -1, *[low] * len(told), ends[0], 0], [1, 1, *[high] * len(told), ends[1], 1], strict=True)
    assert env.observation_space == spaces.Box(*np.array(list(bounds), np.float32).T, dtype=np.float32)
    for _ in range(2):
        obs, _ = env.reset()
        assert obs.tolist() == [*SEEN.tolist(), *[0] * len(told), 0, 1]
        for reward in (0.5, -2, 0.5):
            obs, got, terminated, truncated, info = env.step(copy.deepcopy(action))
            assert obs.dtype == np.float32
            assert obs.tolist() == [*SEEN.tolist(), *told, reward, 0]
            assert env.own_part(obs[None, None]).tolist() == [[SEEN.tolist()]]
            assert env.observation_space.contains(obs)
            assert (got, terminated, truncated) == (reward, info["t"] == 3, False)


@pytest.mark.parametrize(
    ("observe", "told", "opening"),
    [
        (["action"], [0, 1, 0], [0, 0, 1]),
        (("reward",), [0.5, 0], [0, 1]),
        (["reward", "action"], [0, 1, 0.5, 0], [0, 0, 0, 1]),
    ],
)
def test_either_or_both_are_told(observe, told, opening):
    env = PreviousStep(Scripted(SEEN, VECTOR, spaces.Discrete(2)), observe)
    assert env.reset()[0].tolist() == [*SEEN.tolist(), *opening]
    assert env.step(1)[0].tolist() == [*SEEN.tolist(), *told]


@pytest.mark.parametrize(
    ("dtype", "grown"),
    [("uint8", "float32"), ("int16", "float32"), ("int32", "float64"), ("float16", "float32"), ("float64", "float64")],
)
def test_a_vector_grows_in_a_dtype_that_holds_it(dtype, grown):
    largest = 1e3 if dtype == "float16" else 2.0**31 - 1 if dtype in ("int32", "float64") else np.iinfo(dtype).max
    space = spaces.Box(0, largest, (2,), np.dtype(dtype).type)
    env = PreviousStep(Scripted(np.array([0, largest], dtype), space, spaces.Discrete(2)))
    obs, _ = env.reset()
    assert obs.dtype == env.observation_space.dtype == grown
    assert obs.tolist() == [0, largest, 0, 0, 0, 1]
    assert env.observation_space.contains(obs)


def told_apart(obs, own):
    """Check the keys of an observation, and return its added parts."""
    assert list(obs) == [*own, "previous_action", "previous_reward", "episode_start"]
    return [obs[key].tolist() for key in ("previous_action", "previous_reward", "episode_start")]


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_anything_else_becomes_a_dict(kind):
    space, seen = OBSERVATIONS[kind]
    env = PreviousStep(Scripted(seen, space, spaces.Discrete(2)))
    parts = {"previous_action": spaces.Box(0, 1, (2,), np.float32)}
    parts |= {"previous_reward": spaces.Box(-np.inf, np.inf, (1,), np.float32)}
    parts |= {"episode_start": spaces.Box(0, 1, (1,), np.float32)}
    assert env.observation_space == spaces.Dict({"observation": space, **parts})
    obs, _ = env.reset()
    assert obs["observation"] is seen
    assert told_apart(obs, ["observation"]) == [[0, 0], [0], [1]]
    assert env.own_part(obs) is seen
    obs = env.step(1)[0]
    assert told_apart(obs, ["observation"]) == [[0, 1], [0.5], [0]]
    assert env.observation_space.contains(obs)


def test_a_dict_gets_keys():
    space = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(2)})
    seen = {"a": SEEN, "b": np.int64(1)}
    env = PreviousStep(Scripted(seen, space, spaces.Discrete(2)))
    assert {key: env.observation_space[key] for key in space} == dict(space.spaces)
    assert told_apart(env.reset()[0], ["a", "b"]) == [[0, 0], [0], [1]]
    obs = env.step(0)[0]
    assert told_apart(obs, ["a", "b"]) == [[1, 0], [0.5], [0]]
    assert obs["a"] is SEEN
    assert env.own_part(obs) == seen
    assert list(seen) == ["a", "b"], "the environment's own is left as it is"
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "observe", "message"),
    [
        (VECTOR, spaces.Discrete(2), [], r"observe is \[\], expected a list of 'action', 'reward' or both"),
        (VECTOR, spaces.Discrete(2), "action", "observe is 'action', expected a list"),
        (VECTOR, spaces.Discrete(2), ["action", "action"], r"observe is \['action', 'action'\]"),
        (VECTOR, spaces.Discrete(2), ["observation"], r"observe is \['observation'\]"),
        (VECTOR, spaces.Sequence(VECTOR), ["action"], "the action space is Sequence.*expected one that Gymnasium flat"),
        (
            spaces.Dict({"previous_reward": VECTOR}),
            spaces.Discrete(2),
            ["action", "reward"],
            "the key 'previous_reward', expected none of previous_action, previous_reward, episode_start",
        ),
    ],
)
def test_mistakes_are_named(observation_space, action_space, observe, message):
    with pytest.raises(ValueError, match=message):
        PreviousStep(Scripted(None, observation_space, action_space), observe)


def test_only_what_is_told_must_fit():
    """If only the reward is added, actions may be of any space, and the key of the action may exist."""
    space = spaces.Dict({"previous_action": VECTOR})
    env = PreviousStep(Scripted({"previous_action": SEEN}, space, spaces.Sequence(VECTOR)), ["reward"])
    assert env.reset()[0]["previous_action"] is SEEN


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_gymnasium_has_nothing_to_object_to(name):
    env = PreviousStep(gymnasium.make(name))
    check_env(env, skip_render_check=True)
    spec = EnvSpec.from_json(env.spec.to_json())
    again = gymnasium.make(spec)
    assert str(again) == str(env)
    assert again.observation_space == env.observation_space
    assert data_equivalence(again.reset(seed=2), env.reset(seed=2), exact=True)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_made_mid_episode_plays_on_identically(duplicate):
    env = PreviousStep(gymnasium.make("PendulumNoVel-v1"))
    env.reset(seed=1)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    twin = duplicate(env)
    for _ in range(5):
        action = env.action_space.sample()
        assert data_equivalence(env.step(action), twin.step(action), exact=True)
