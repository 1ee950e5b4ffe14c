"""A run that is stopped and resumed equals an uninterrupted run, with every wrapper around its environment."""

import csv
import os
import shutil
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation, NormalizeObservation, TimeAwareObservation
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize

import fwagents.envs
from fwagents.cores import CORES
from fwagents.sb3 import MemoryA2C, MemoryPPO, make_vec_env
from fwagents.sb3.callbacks import EpisodeLogCallback, EvaluationCallback, LogCallback, MemoryNormCallback
from fwagents.sb3.checkpoints import CheckpointCallback, newest_whole, restore
from fwagents.sb3.env_states import get_env_state, set_env_state
from fwagents.sb3.logging import run_logger

OURS = list(fwagents.envs.ENVIRONMENTS)
STEPS, ENVS, ROLLOUTS = 7, 2, 8
TIMING = {"time/fps", "time/time_elapsed"}


class Lives(gym.Wrapper):
    """A wrapper with its own state and a second reference to the environment."""

    def __init__(self, env):
        super().__init__(env)
        self.inside, self.total = env, 0.0
        self.halve = lambda reward: reward / 2  # cannot be pickled, and never changes

    def step(self, action):
        obs, reward, *rest = self.inside.step(action)
        self.total += 1
        return obs, self.halve(reward) + self.total, *rest


def environment(env_id, around):
    wrappers = {
        "time": [TimeAwareObservation, FlattenObservation],
        "own": [Lives],
        "statistics": [NormalizeObservation],
    }
    kind = {"native": "auto", "told": "auto", "processes": "subproc"}.get(around, "dummy")
    observe = ("action", "reward") if around == "told" else ()
    venv = make_vec_env(env_id, ENVS, seed=1, vec_env=kind, wrappers=wrappers.get(around, []), observe=observe)
    return VecNormalize(VecFrameStack(venv, 2))


def trained(folder, env_id, around, core, algorithm, resumed_from=None):
    """Return the model of a whole run in ``folder``, or of a run resumed from the middle of another."""
    folder.mkdir()
    evaluation = VecNormalize(environment(env_id, around).venv, training=False, norm_reward=False)
    callbacks = [
        MemoryNormCallback(),
        EpisodeLogCallback(folder / "monitor.csv", env_id),
        EvaluationCallback(evaluation, 9, 2, 3 * STEPS * ENVS, folder, ENVS),
    ]
    checkpoints = CheckpointCallback(folder / "checkpoints", 3 * STEPS * ENVS, callbacks)
    if resumed_from is None:
        sizes = {} if algorithm is MemoryA2C else {"batch_size": STEPS, "n_epochs": 2}
        kwargs = {"core": core, "hidden_size": 4}
        policy = {"n_steps": STEPS, "seed": 2, "policy_kwargs": kwargs, **sizes}
        model = algorithm("MemoryPolicy", environment(env_id, around), **policy)
        model.set_logger(run_logger(folder))
    else:
        for name in ("monitor.csv", "progress.csv"):
            shutil.copy(resumed_from / name, folder)
        (folder / "checkpoints").mkdir()
        middle = sorted((resumed_from / "checkpoints").iterdir())[1]
        shutil.copy(middle, folder / "checkpoints")

        def load(path):
            return algorithm.load(path, env=environment(env_id, around), force_reset=False)

        model, state = newest_whole(folder / "checkpoints", load)
        assert model.num_timesteps == 3 * STEPS * ENVS
        model.set_logger(run_logger(folder, model.num_timesteps))
        assert restore(model, callbacks, state)
    model.learn(
        ROLLOUTS * STEPS * ENVS - model.num_timesteps,
        callback=[*callbacks, LogCallback(2), checkpoints],
        log_interval=None,
        reset_num_timesteps=False,
    )
    model.logger.close()
    return model


def rows(path, skip, without):
    with path.open() as file:
        for _ in range(skip):
            next(file)
        return [{name: value for name, value in row.items() if name not in without} for row in csv.DictReader(file)]


def check(tmp_path, env_id, around="dummy", core="gru", algorithm=MemoryPPO):
    """Check that the results of a whole and a resumed run are equal except for times."""
    one, other = tmp_path / "one", tmp_path / "other"
    whole = trained(one, env_id, around, core, algorithm)
    parts = trained(other, env_id, around, core, algorithm, resumed_from=one)
    torch.testing.assert_close(dict(parts.policy.state_dict()), dict(whole.policy.state_dict()), rtol=0, atol=0)
    for name in ("obs_rms", "ret_rms"):
        ours, theirs = (getattr(model.get_env(), name) for model in (parts, whole))
        np.testing.assert_array_equal(ours.mean, theirs.mean)
        np.testing.assert_array_equal(ours.var, theirs.var)
    assert rows(other / "monitor.csv", 1, {"t"}) == rows(one / "monitor.csv", 1, {"t"})
    assert rows(other / "progress.csv", 0, TIMING) == rows(one / "progress.csv", 0, TIMING)
    with np.load(other / "evaluations.npz") as ours, np.load(one / "evaluations.npz") as theirs:
        assert len(theirs["timesteps"]) == ROLLOUTS // 3
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("env_id", OURS)
def test_every_environment(env_id, tmp_path):
    check(tmp_path, env_id)


@pytest.mark.parametrize("env_id", ["PartialCatch-v0", "KeyValueRecall-v0", "PendulumNoVel-v1"])
def test_as_made_by_default(env_id, tmp_path):
    check(tmp_path, env_id, "native")


@pytest.mark.parametrize("env_id", ["PartialCatch-v0", "PendulumNoVel-v1"])
def test_with_the_last_step_told(env_id, tmp_path):
    check(tmp_path, env_id, "told")


@pytest.mark.parametrize("around", ["time", "own", "statistics", pytest.param("processes", marks=pytest.mark.slow)])
def test_whatever_stands_around_it(around, tmp_path):
    check(tmp_path, "CartPoleNoVel-v1", around)


@pytest.mark.parametrize("core", sorted(CORES))
def test_every_core(core, tmp_path):
    check(tmp_path, "PartialCatch-v0", "native", core)


@pytest.mark.parametrize("algorithm", [MemoryA2C, RecurrentPPO])
def test_every_algorithm(algorithm, tmp_path):
    check(tmp_path, "PartialCatch-v0", "dummy", "gru", algorithm)


# Only environments with a time limit can show the time.
AROUND = ("native", "dummy", "told", "time", "own", "statistics", "processes")
# A third of all pairs: every environment has some of the wrappers, and every wrapper has all algorithms.
COMBINATIONS = [
    (name, around, (MemoryPPO, MemoryA2C, RecurrentPPO)[i % 3])
    for i, name in enumerate(OURS)
    for j, around in enumerate(AROUND)
    if (i + j) % 3 == 0 and (around != "time" or gym.spec(name).max_episode_steps)
]


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "around", "algorithm"), COMBINATIONS)
def test_combinations(env_id, around, algorithm, tmp_path):
    check(tmp_path, env_id, around, "fast_weights", algorithm)


@pytest.mark.parametrize("env_id", OURS)
def test_an_environment_goes_on_from_its_state(env_id):
    """The steps include ends of episodes and time limits."""
    envs = [make_vec_env(env_id, ENVS, seed=seed, vec_env="dummy") for seed in (1, 5)]
    space = envs[0].action_space
    space.seed(0)
    actions = [np.array([space.sample() for _ in range(ENVS)]) for _ in range(600)]
    envs[0].reset()
    for action in actions[:150]:
        envs[0].step(action)
    envs[1].reset()
    state = get_env_state(envs[0])
    assert state["exact"]
    set_env_state(envs[1], state)
    ended = 0
    for action in actions[150:]:
        (seen, reward, done, infos), (same_seen, same_reward, same_done, same_infos) = (e.step(action) for e in envs)
        np.testing.assert_array_equal(seen, same_seen)
        np.testing.assert_array_equal(reward, same_reward)
        np.testing.assert_array_equal(done, same_done)
        ended += done.sum()
        for info, same in zip(infos, same_infos, strict=True):
            assert info.get("TimeLimit.truncated") == same.get("TimeLimit.truncated")
    assert ended >= 4


def test_a_process_gives_its_state_and_leaves_interrupts_alone():
    """Compare with the same environment in this process."""
    there, here = (make_vec_env("CartPoleNoVel-v1", 1, seed=1, vec_env=kind) for kind in ("subproc", "dummy"))
    try:
        there.reset()
        actions = [np.array([number % 2]) for number in range(60)]
        for action in actions[:15]:
            there.step(action)
        (worker,) = there.venv.processes
        os.kill(worker.pid, signal.SIGINT)
        state = get_env_state(there)
        assert state["exact"]
        before = [there.step(action) for action in actions]
        set_env_state(there, state)
        here.reset()
        set_env_state(here.venv, {"exact": True, "layers": [state["layers"][1]]})
        for action, (obs, reward, done, _) in zip(actions, before, strict=True):
            for venv in (there, here):
                again = venv.step(action)
                np.testing.assert_array_equal(again[0], obs)
                assert (again[1], again[2]) == (reward, done)
        assert any(done for _, _, done, _ in before), "an episode has ended between"
    finally:
        there.close()


def test_processes_of_others_cannot_tell():
    venv = SubprocVecEnv([lambda: gym.make("fwagents.envs:CartPoleNoVel-v1")])
    try:
        venv.reset()
        assert not get_env_state(venv)["exact"]
        assert venv.step(np.array([0]))[1] == 1.0, "and go on"
    finally:
        venv.close()


class Holding(gym.Wrapper):
    """A wrapper with an attribute that cannot be copied."""

    def __init__(self, env):
        super().__init__(env)
        self.file = open(__file__)  # noqa: SIM115


class Counting(VecEnvWrapper):
    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_vec_env("CartPole-v1", 1),
        lambda: make_vec_env("CartPoleNoVel-v1", 1, wrappers=[Holding]),
        lambda: Counting(VecMonitor(make_vec_env("PartialCatch-v0", 1))),
    ],
    ids=["stock", "open file", "unknown VecEnvWrapper"],
)
def test_what_cannot_tell_says_so(make):
    assert not get_env_state(make())["exact"]
