"""Environments that fail: the error names the environment, the step and the value, in this process and in others."""

import os
import signal

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from fwagents.sb3 import MemoryPPO, make_vec_env
from fwagents.sb3.faults import EnvironmentFault

FAILS_AT = 3
VALUES = {
    "shape": (np.zeros(4, np.float32), "step() returned the observation of float32 and shape (4,), expected float32"),
    "dtype": (np.zeros(2, complex), "step() returned the observation of complex128 and shape (2,), expected float32"),
    "none": (None, "step() returned the observation None, expected float32 of shape (2,)"),
    "text": ("left", "step() returned the observation 'left', expected float32 of shape (2,)"),
    "reward": (np.zeros(2), "step() returned the reward of float64 and shape (2,), expected a number"),
    "no reward": (None, "step() returned the reward None, expected a number"),
    "flag": ("no", "step() returned 'no' for terminated, expected a bool"),
    "info": (7, "step() returned 7 for info, expected a dict"),
    "length": ((0, 1), "step() returned (0, 1), expected a tuple (observation, reward, terminated, truncated, info)"),
    "raises": (KeyError("the lid is stuck"), "step() raised KeyError: 'the lid is stuck'"),
}


class Failing(gym.Env):
    """An environment that fails in one way at step ``FAILS_AT`` of an episode, in the given environments of a batch."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def __init__(self, how):
        self.how = how

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if self.how == "reset":
            raise OSError("no such world")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        result = {"observation": np.zeros(2, np.float32), "reward": 0.0, "terminated": False}
        result |= {"truncated": False, "info": {}}
        if self.t == FAILS_AT:
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            value = VALUES[self.how][0]
            if isinstance(value, Exception):
                raise value
            if self.how == "length":
                return value
            place = {"reward": "reward", "no reward": "reward", "flag": "terminated", "info": "info"}
            result[place.get(self.how, "observation")] = value
        return tuple(result.values())


@pytest.mark.parametrize("how", VALUES)
def test_a_fault_is_named(how):
    env = make_vec_env(Failing, 2, how=how)
    with pytest.raises(EnvironmentFault) as caught:
        MemoryPPO("MemoryPolicy", env, n_steps=8).learn(16)
    message = str(caught.value)
    assert message.startswith(f"environment 0 of Failing at step {FAILS_AT} of its episode: {VALUES[how][1]}")
    assert (caught.value.env, caught.value.step) == (0, FAILS_AT)
    assert isinstance(caught.value.__cause__, KeyError if how == "raises" else type(None))


def test_a_reset_that_fails_is_named():
    env = make_vec_env(Failing, 1, how="reset")
    with pytest.raises(EnvironmentFault, match=r"at step 0 of its episode: reset\(\) raised OSError: no such world"):
        env.reset()


@pytest.mark.parametrize(
    "how", ["raises", pytest.param("shape", marks=pytest.mark.slow), pytest.param("reset", marks=pytest.mark.slow)]
)
def test_a_fault_in_another_process_is_raised_here_with_its_traceback(how):
    env = make_vec_env(Failing, 1, vec_env="subproc", how=how)
    expected = "reset() raised OSError" if how == "reset" else VALUES[how][1]
    with pytest.raises(EnvironmentFault) as caught:
        MemoryPPO("MemoryPolicy", env, n_steps=8).learn(16)
    assert f"environment 0 of Failing at step {0 if how == 'reset' else FAILS_AT}" in str(caught.value)
    assert expected in str(caught.value)
    if how == "raises":
        assert "raise value" in str(caught.value.__cause__)  # the line of the environment's code
    env.close()


def test_a_process_that_dies_is_named():
    env = make_vec_env(Failing, 2, vec_env="subproc", how="dies")
    with pytest.raises(EnvironmentFault, match=r"the process of environment [01] \(exit code -9\)"):
        MemoryPPO("MemoryPolicy", env, n_steps=8).learn(16)
    env.close()
    assert not any(process.is_alive() for process in env.venv.processes)


def test_an_environment_that_nobody_watches_is_named_by_its_step():
    with pytest.raises(EnvironmentFault, match="at step 3 of the rollout: KeyError") as caught:
        MemoryPPO("MemoryPolicy", DummyVecEnv([lambda: Failing("raises")]), n_steps=8).learn(8)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (spaces.Box(-1, 1, (2,), np.float32), np.zeros(2)),
        (spaces.Box(-1, 1, (2,), np.float32), [0, 1]),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([3, 4])),
        (spaces.Discrete(3), 2),
        (spaces.Discrete(3), np.int64(2)),
        (spaces.MultiBinary(2), np.array([0, 1], np.int64)),
        (spaces.Dict({"a": spaces.Discrete(3)}), {"a": 1}),
    ],
)
def test_what_a_buffer_holds_as_it_is_is_no_fault(space, observation):
    class Plain(gym.Env):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return observation, {}

        def step(self, action):
            return observation, np.float32(1), np.bool_(False), False, {}

    env = make_vec_env(Plain, 2)
    env.reset()
    env.step(np.zeros(2, int))
