"""The single environments: seeding, copies, saved states, and errors."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded

from .families import BATCHED as NAMES
from .families import actions


def make(name, **kwargs):
    """Return the environment without Gymnasium's wrappers, whose checks would come before its own."""
    return gymnasium.make(name, **kwargs).unwrapped


def play(env, episodes=4, seed=0):
    """Return the trajectory of the rest of an episode and of further ones, under fixed random actions."""
    rng = np.random.default_rng(seed)
    trajectory = []
    for _ in range(episodes):
        over = False
        while not over:
            observation, reward, terminated, truncated, info = env.step(rng.integers(env.action_space.n))
            trajectory.append((observation.tolist(), reward, terminated, truncated, info))
            over = terminated or truncated
        observation, info = env.reset()
        trajectory.append((observation.tolist(), info))
    return trajectory


def finish(env):
    """Play the episode to its end."""
    while True:
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            return


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
        starts.add(tuple(env.reset()[0].tobytes() for _ in range(8)))
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
    if steps == "all":
        finish(env)
    else:
        for _ in range(steps):
            env.step(1)
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


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([[0, 1, 1, 2]], r"state\['keys'\] must be different numbers"),
        ([[0, 1, 2, 26]], r"state\['keys'\] must be from 0 to 25"),
        ([0, 1, 2, 3], r"state\['keys'\] must be int64 of shape \(1, 4\), got int64 of shape \(4,\)"),
    ],
)
def test_bad_lists_in_states_are_refused(keys, message):
    env = make("KeyValueRecall-v0")
    env.reset(seed=1)
    with pytest.raises(ValueError, match=message):
        env.set_state({**env.get_state(), "keys": np.array(keys)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "action",
    [
        -1,
        "as many as there are",
        1.0,
        float("nan"),
        None,
        "left",
        True,
        np.array([1]),
        np.array([1, 0]),
        np.float32(1),
        2**70,
    ],
    ids=repr,
)
def test_bad_actions_are_refused_and_change_nothing(name, action):
    if isinstance(action, str) and action != "left":
        action = actions(name)
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
        results.append({key: value.tolist() for key, value in env.get_state().items()})
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", NAMES)
def test_calls_out_of_order_are_refused(name):
    env = make(name, render_mode="ansi")
    for call in (lambda: env.step(0), env.render):
        with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
            call()
    env.reset(seed=0)
    finish(env)
    with pytest.raises(ResetNeeded, match="after the end"):
        env.step(0)
    env.render()


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("PartialCatch-v0", {"bal": 1}, ValueError, r"\['bal'\]; known: \['ball', 'paddle'\]"),
        ("PartialCatch-v0", {"ball": 16}, ValueError, "ball must be from 0 to 15, got 16"),
        ("PartialCatch-v0", {"paddle": 15}, ValueError, "paddle must be from 0 to 14, got 15"),
        ("PartialCatch-v0", {"paddle": -1}, ValueError, "paddle must be from 0 to 14, got -1"),
        ("PartialCatch-v0", {"ball": 1.0}, TypeError, r"ball .* got 1\.0"),
        ("PartialCatch-v0", {"ball": True}, TypeError, "ball .* got True"),
        ("PartialCatch-v0", {"ball": None}, TypeError, "ball .* got None"),
        (
            "PartialCatch-v0",
            {"ball": [1, 2]},
            ValueError,
            r"ball must be one number or have shape \(1,\), got shape \(2,\)",
        ),
        ("TMaze-v0", {"goal": 2}, ValueError, "goal must be from 0 to 1, got 2"),
        ("KeyValueRecall-v0", {"keys": [0, 1, 2, 26]}, ValueError, "keys must be from 0 to 25"),
        (
            "KeyValueRecall-v0",
            {"keys": [0, 1, 2, 1]},
            ValueError,
            r"must be different numbers, got \[0, 1, 2, 1\]",
        ),
        ("KeyValueRecall-v0", {"keys": 3}, ValueError, "keys must be different numbers, got 3"),
        ("KeyValueRecall-v0", {"values": [1, 2]}, ValueError, r"shape \(4,\) or \(1, 4\), got shape \(2,\)"),
        ("KeyValueRecall-v0", {"asked": 4}, ValueError, "asked must be from 0 to 3, got 4"),
        ("RepeatPrevious-v0", {"sequence": [0.5] * 20}, TypeError, "sequence must be made of whole numbers"),
        ("MemoryChain-v0", {"bit": 1}, ValueError, r"\['bit'\]; known: \['context'\]"),
    ],
)
def test_bad_options_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        make(name).reset(options=options)


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
