"""Environments whose faults are reported with the number of the environment, the step and the value."""

import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from fwagents.sb3.faults import EnvironmentFault

FAULT = "fwagents_fault"  # in an info: the message of a fault in another process
ResultT = TypeVar("ResultT")


class WatchedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that raises ``EnvironmentFault`` if the environment fails.

    An environment fails if ``reset`` or ``step`` raises, or returns an observation, a reward or a flag of a wrong type.

    Args:
        env: the environment.
        name: its name in messages.
        number: its number in the batch; None if it is not known.
        apart: whether it runs in its own process; a fault is then passed on in the info.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, number: int | None, apart: bool = False) -> None:
        super().__init__(env)
        self.name, self.number, self.apart = name, number, apart
        self.steps = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.steps = 0
        try:
            return self._guarded("reset", lambda: self.env.reset(**kwargs), self._wrong_reset)
        except EnvironmentFault as fault:
            if not self.apart:
                raise
            return self.observation_space.sample(), {FAULT: _plain(fault)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play one step."""
        self.steps += 1
        try:
            return self._guarded("step", lambda: self.env.step(action), self._wrong_step)
        except EnvironmentFault as fault:
            if not self.apart:
                raise
            return self.observation_space.sample(), 0.0, False, False, {FAULT: _plain(fault)}

    def _guarded(self, method: str, call: Callable[[], ResultT], wrong: Callable[[Any], str | None]) -> ResultT:
        try:
            result = call()
        except Exception as error:
            raise self._fault(f"{method}() raised {type(error).__name__}: {error}") from error
        if reason := wrong(result):
            raise self._fault(f"{method}() returned {reason}")
        return result

    def _fault(self, what: str) -> EnvironmentFault:
        which = "an environment" if self.number is None else f"environment {self.number}"
        message = f"{which} of {self.name} at step {self.steps} of its episode: {what}"
        return EnvironmentFault(message, self.number, self.steps)

    def _wrong_reset(self, result: Any) -> str | None:
        if not (isinstance(result, tuple) and len(result) == 2):
            return f"{_shown(result)}, expected a tuple (observation, info)"
        obs, info = result
        return self._wrong(obs, info)

    def _wrong_step(self, result: Any) -> str | None:
        if not (isinstance(result, tuple) and len(result) == 5):
            return f"{_shown(result)}, expected a tuple (observation, reward, terminated, truncated, info)"
        obs, reward, terminated, truncated, info = result
        if not (isinstance(reward, Real) or (isinstance(reward, np.ndarray) and reward.ndim == 0)):
            return f"the reward {_shown(reward)}, expected a number"
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, (bool, np.bool_, int, np.integer)):
                return f"{_shown(flag)} for {name}, expected a bool"
        return self._wrong(obs, info)

    def _wrong(self, obs: Any, info: Any) -> str | None:
        if not isinstance(info, dict):
            return f"{_shown(info)} for info, expected a dict"
        return unlike(self.observation_space, obs, "the observation")


def unlike(space: spaces.Space[Any], obs: Any, name: str) -> str | None:
    """Describe what is wrong with an observation's shape or dtype; None if a buffer of that space can hold it.

    Bounds are not checked, since many environments exceed them.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.keys():
            return f"{name} {_shown(obs)}, expected a dict of {', '.join(space)}"
        wrongs = (unlike(part, obs[key], f"{name} {key!r}") for key, part in space.items())
        return next((wrong for wrong in wrongs if wrong), None)
    expected = f"{space.dtype} of shape {space.shape}"
    array = np.asarray(obs) if isinstance(obs, (np.ndarray, np.generic, int, float, list, tuple)) else None
    if array is None or array.shape != space.shape:
        return f"{name} {_shown(obs)}, expected {expected}"
    if not np.can_cast(array.dtype, np.dtype(space.dtype), "same_kind") and not (
        array.dtype.kind in "biu" and np.dtype(space.dtype).kind in "iu"
    ):
        return f"{name} {_shown(obs)}, expected {expected}"
    return None


def _shown(value: Any) -> str:
    """Return a value as text for a message: an array by dtype and shape, anything else by its shortened repr."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"of {value.dtype} and shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(fault: EnvironmentFault) -> tuple[str, int | None, int | None, str]:
    """Return a fault as plain values, which can be sent between processes."""
    text = "" if fault.__cause__ is None else "".join(traceback.format_exception(fault.__cause__))
    return str(fault), fault.env, fault.step, text


class RemoteError(Exception):
    """The traceback of an error in another process, as text."""


class WatchedSubprocVecEnv(SubprocVecEnv):
    """SB3's ``SubprocVecEnv`` that raises the faults of its environments; a dead process is a fault too."""

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]], start_method: str | None = None) -> None:
        self._living(lambda: super(WatchedSubprocVecEnv, self).__init__(env_fns, start_method))

    def reset(self) -> VecEnvObs:
        """Begin an episode everywhere."""
        obs = self._living(super().reset)
        self._raise(self.reset_infos)
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step of every environment."""
        result = self._living(super().step_wait)
        self._raise(result[3])
        self._raise(self.reset_infos)
        return result

    def step_async(self, actions: np.ndarray) -> None:
        """Send every environment its action."""
        self._living(lambda: super(WatchedSubprocVecEnv, self).step_async(actions))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of every environment, or of those that ``indices`` names."""
        call = super().env_method
        return self._living(lambda: call(method_name, *method_args, indices=indices, **method_kwargs))

    def _living(self, call: Callable[[], ResultT]) -> ResultT:
        """Return the result of the call.

        Raises:
            EnvironmentFault: a process has died.
        """
        try:
            return call()
        except (EOFError, ConnectionError) as error:
            for process in self.processes:
                process.join(0.1)
            dead = [i for i, process in enumerate(self.processes) if not process.is_alive()]
            codes = ", ".join(f"{i} (exit code {self.processes[i].exitcode})" for i in dead)
            for process in self.processes:
                process.terminate()
            self.waiting, self.closed = False, True  # no process is left to wait for
            raise EnvironmentFault(
                f"the process of environment {codes or 'unknown'} died", dead[0] if dead else None
            ) from error

    def _raise(self, infos: Sequence[dict[str, Any]]) -> None:
        for info in infos:
            if FAULT in info:
                message, env, step, text = info[FAULT]
                self.close()
                raise EnvironmentFault(message, env, step) from (RemoteError(f"\n{text}") if text else None)
