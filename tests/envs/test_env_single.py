"""The single environments: seeding, copies, saved states, and misuse."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded

from fwagents.envs import ENVIRONMENTS

NAMES = [name for name, environment in ENVIRONMENTS.items() if environment.vector_entry_point]


def make(name, **kwargs):
    """The environment without the wrappers, whose own checks would answer before it."""
    return gymnasium.make(name, **kwargs).unwrapped


def play(env, episodes=3, seed=0):
    """The observations and rewards of the rest of an episode and of more after it, under fixed random actions."""
    rng = np.random.default_rng(seed)
    trajectory = []
    for _ in range(episodes):
        terminated = False
        while not terminated:
            observation, reward, terminated, _, info = env.step(rng.integers(3))
            trajectory.append((observation.tolist(), reward, terminated, info))
        observation, info = env.reset()
        trajectory.append((observation.tolist(), info))
    return trajectory


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_everything_that_follows(name):
    first, second, other = make(name), make(name), make(name)
    assert (first.reset(seed=7)[0] == second.reset(seed=7)[0]).all()
    other.reset(seed=8)
    trajectory = play(first, episodes=8)
    assert trajectory == play(second, episodes=8)
    assert trajectory != play(other, episodes=8)
    first.reset(seed=7)
    assert trajectory == play(first, episodes=8)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_seed_every_environment_is_its_own(name):
    starts = set()
    for _ in range(20):
        env = make(name)
        starts.add(tuple(env.reset()[0].tolist()) + tuple(env.reset()[0].tolist()))
    assert len(starts) > 10


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_set_from_outside_is_used(name):
    first, second = make(name), make(name)
    first.np_random, second.np_random = np.random.default_rng(3), np.random.default_rng(3)
    first.reset()
    second.reset()
    assert play(first) == play(second)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_made_mid_episode_plays_on_identically(name, duplicate):
    env = make(name)
    env.reset(seed=1)
    for _ in range(5):
        env.step(1)
    twin = duplicate(env)
    assert play(env) == play(twin)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 5, "all"])
def test_a_saved_state_plays_on_identically(name, steps, tmp_path):
    env, fresh = make(name), make(name)
    env.reset(seed=1)
    env.reset()
    for _ in range(env.observation_space.shape[0] if steps == "all" else steps):
        if env.step(2)[2]:
            break
    np.savez(tmp_path / "state.npz", **env.get_state())
    if steps == "all":
        env.reset()
    trajectory = play(env)
    assert trajectory != play(env)
    for other in (env, fresh):
        with np.load(tmp_path / "state.npz") as state:
            other.set_state(dict(state))
        if steps == "all":
            with pytest.raises(ResetNeeded):
                other.step(0)
            other.reset()
        assert trajectory == play(other)


@pytest.mark.parametrize("name", NAMES)
def test_states_are_copies(name):
    env = make(name)
    env.reset(seed=1)
    state = env.get_state()
    before = copy.deepcopy(state)
    env.step(1)
    env.set_state(state)
    env.step(1)
    assert all((state[key] == before[key]).all() for key in before)


@pytest.mark.parametrize("name", NAMES)
def test_bad_states_are_refused_and_change_nothing(name):
    env = make(name)
    env.reset(seed=1)
    state = env.get_state()
    bad = {
        "keys": {key: state[key] for key in list(state)[1:]},
        "shape": {**state, "frame": np.zeros(2, np.int64)},
        "int64": {**state, "frame": state["frame"].astype(np.float64)},
        "from 0 to": {**state, "frame": state["frame"] + 10_000},
    }
    for message, value in bad.items():
        with pytest.raises(ValueError, match=message):
            env.set_state(value)
    assert all((env.get_state()[key] == state[key]).all() for key in state)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "action",
    [-1, 3, 1.0, float("nan"), None, "left", True, np.array([1]), np.array([1, 0]), np.float32(1), 2**70],
    ids=repr,
)
def test_bad_actions_are_refused_and_change_nothing(name, action):
    env = make(name)
    env.reset(seed=1)
    state = env.get_state()
    with pytest.raises(InvalidAction, match="action must be"):
        env.step(action)
    assert all((env.get_state()[key] == state[key]).all() for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_integers_of_every_kind_are_actions(name):
    results = []
    for action in (1, np.int64(1), np.uint8(1), np.array(1), np.array([1, 2])[0]):
        env = make(name)
        env.reset(seed=1)
        env.step(action)
        results.append(tuple(int(value[0]) for value in env.get_state().values()))
    assert len(set(results)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_calls_out_of_order_are_refused(name):
    env = make(name, render_mode="ansi")
    for call in (lambda: env.step(0), env.render):
        with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
            call()
    env.reset(seed=0)
    while not env.step(0)[2]:
        pass
    with pytest.raises(ResetNeeded, match="after the end"):
        env.step(0)
    env.render()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bal": 1}, ValueError, r"\['bal'\]; known: \['ball', 'paddle'\]"),
        ({"ball": 16}, ValueError, "ball must be from 0 to 15, got 16"),
        ({"paddle": 15}, ValueError, "paddle must be from 0 to 14, got 15"),
        ({"paddle": -1}, ValueError, "paddle must be from 0 to 14, got -1"),
        ({"ball": 1.0}, TypeError, r"ball .* got 1\.0"),
        ({"ball": True}, TypeError, "ball .* got True"),
        ({"ball": None}, TypeError, "ball .* got None"),
        ({"ball": [1, 2]}, ValueError, r"ball must be one number or have shape \(1,\), got shape \(2,\)"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        make("PartialCatch-v0").reset(options=options)


def test_gymnasium_s_wrappers_fit():
    env = gymnasium.make("PartialCatch-v0", size=20, visible_frames=2, max_episode_steps=10)
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.FrameStackObservation(env, 3))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3, 400)
    for _ in range(10):
        *_, terminated, truncated, info = env.step(0)
    assert truncated
    assert not terminated
    assert info["episode"]["l"] == 10
