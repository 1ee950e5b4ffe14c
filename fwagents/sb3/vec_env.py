"""Gymnasium's natively batched environments under Stable-Baselines3."""

import importlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Literal, cast, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from fwagents.cores.base import positive_int

VecEnvKind = Literal["auto", "dummy", "subproc"]
Wrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
# What SB3 holds, as an observation or a part of one.
_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class GymnasiumVecEnv(VecEnv):
    """A Gymnasium ``VectorEnv`` as an SB3 ``VecEnv``, monitored.

    Every finished episode is reported in its ``info["episode"]``, as SB3's ``Monitor`` does. There is no loop over
    environments but over those whose episode has just ended.

    Args:
        env: batched environment with ``autoreset_mode`` SAME_STEP, which is how SB3's own behave.

    Raises:
        ValueError: another autoreset mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(f"autoreset_mode is {mode}, expected {AutoresetMode.SAME_STEP}")
        self.env = env
        self.render_mode = env.render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.begun = time.time()

    def reset(self) -> VecEnvObs:
        """Begin an episode everywhere, with what was given to ``seed`` and ``set_options`` since the last time."""
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError(f"options is {self._options!r}, expected the same everywhere: a batch has no parts")
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        obs, info = cast(Any, self.env).reset(seed=seeds, options=options or None)
        self.reset_infos = [_of_one(info, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self.returns = np.zeros(self.num_envs)
        self.lengths = np.zeros(self.num_envs, np.int64)
        result: VecEnvObs = obs
        return result

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for ``step_wait``."""
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Play one step everywhere."""
        obs, rewards, terminated, truncated, info = self.env.step(self.actions)
        dones = terminated | truncated
        self.returns += rewards
        self.lengths += 1
        own = {name: value for name, value in info.items() if name.lstrip("_") not in ("final_obs", "final_info")}
        infos = [_of_one(own, i) if own else {} for i in range(self.num_envs)]
        if dones.any():
            last = info.get("final_info", {})
            for i in np.flatnonzero(dones).tolist():
                # What a batch that resets in the same step says of these is about the next episode.
                self.reset_infos[i] = infos[i]
                cut = bool(truncated[i] and not terminated[i])
                infos[i] = self._finished(i, info["final_obs"][i], _of_one(last, i), cut)
            self.returns[dones] = 0
            self.lengths[dones] = 0
        return obs, rewards.astype(np.float32), dones, infos

    def _finished(self, i: int, observation: Any, last: dict[str, Any], truncated: bool) -> dict[str, Any]:
        """Environment i's info for the step that ended its episode."""
        elapsed = round(time.time() - self.begun, 6)
        episode = {"r": float(self.returns[i]), "l": int(self.lengths[i]), "t": elapsed}
        return {**last, "terminal_observation": observation, "TimeLimit.truncated": truncated, "episode": episode}

    def get_state(self) -> dict[str, Any] | None:
        """All that changes from step to step; None if the batched environment cannot tell."""
        inner: Any = self.env.unwrapped
        if not hasattr(inner, "get_state"):
            return None
        return {"env": inner.get_state(), "returns": self.returns.copy(), "lengths": self.lengths.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``get_state`` returned, with no reset."""
        inner: Any = self.env.unwrapped
        inner.set_state(state["env"])
        self.returns, self.lengths = state["returns"].copy(), state["lengths"].copy()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The picture of every environment."""
        images: Any = self.env.render()
        return images or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The batch's attribute, once for each environment asked for."""
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the whole batch; ValueError for a part of it."""
        self._require_all(indices)
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the whole batch; its result, once for each environment. ValueError for a part of it."""
        self._require_all(indices)
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> Any:
        """True for ``Monitor``, whose work is done here."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]

    def _require_all(self, indices: VecEnvIndices) -> None:
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"indices is {indices!r}, expected None: a batched environment has no parts")


def _of_one(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """Environment i's info, out of a batch's: each value stands beside the mask of those that have it."""
    return {
        name: _of_one(value, i) if isinstance(value, dict) else value[i]
        for name, value in infos.items()
        if not name.startswith("_") and infos[f"_{name}"][i]
    }


def make_env(
    env_id: str, wrappers: Sequence[Wrapper] = (), *, render_mode: str | None = None, **env_kwargs: Any
) -> gym.Env[Any, Any]:
    """One environment.

    Args:
        env_id: Gymnasium id; "module:Id" imports the module first.
        wrappers: what goes around it, the innermost first.
        render_mode: how it is drawn; None is not passed on, since not every constructor takes it.
        **env_kwargs: keyword arguments of ``gymnasium.make``.
    """
    drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    return reduce(lambda inner, wrapper: wrapper(inner), wrappers, gym.make(env_id, **drawn, **env_kwargs))


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    *,
    seed: int | None = None,
    wrappers: Sequence[Wrapper] = (),
    vec_env: VecEnvKind = "auto",
    **env_kwargs: Any,
) -> VecEnv:
    """Environments side by side for SB3, monitored, the fastest way there is.

    An environment with a native ``VectorEnv`` that can reset in the same step runs as one batch; any other, or one with
    wrappers or a ``max_episode_steps`` of its own, in SB3's ``DummyVecEnv``.

    Args:
        env_id: Gymnasium id; "module:Id" imports the module first.
        n_envs: how many.
        seed: environment i is seeded ``seed + i``; None for fresh entropy.
        wrappers: what goes around each environment, the innermost first.
        vec_env: "dummy" for SB3's loop over single environments in any case, "subproc" for a process each, which pays
            where a step takes milliseconds.
        **env_kwargs: keyword arguments of ``gymnasium.make``.

    Raises:
        gymnasium.error.Error: no such environment.
        ValueError, TypeError: an argument is not as above, or SB3 has no use for the observations.
    """
    positive_int("n_envs", n_envs)
    if vec_env not in get_args(VecEnvKind):
        raise ValueError(f"vec_env is {vec_env!r}, expected one of {', '.join(get_args(VecEnvKind))}")
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    creator = native_creator(name, env_kwargs)
    same_step = creator is not None and "autoreset_mode" in inspect.signature(creator).parameters
    if same_step and not wrappers and vec_env == "auto":
        batch = gym.make_vec(name, n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **env_kwargs)
        env: VecEnv = GymnasiumVecEnv(batch)
    else:
        probe = make_env(env_id, wrappers, **env_kwargs)  # a mistake in a process of its own would be no clear line
        _check(probe.observation_space)
        probe.close()
        kind = SubprocVecEnv if vec_env == "subproc" else DummyVecEnv
        env = VecMonitor(kind([lambda: make_env(env_id, wrappers, **env_kwargs)] * n_envs))
    env.seed(seed)
    return env


def native_creator(env_id: str, env_kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
    """What makes a native batch of an environment that is registered; None if there is none for these arguments."""
    native = gym.spec(env_id).vector_entry_point
    if native is None or "max_episode_steps" in env_kwargs:  # the time limit is a wrapper around single environments
        return None
    return load_env_creator(native) if isinstance(native, str) else native


def _check(space: spaces.Space[Any]) -> None:
    """ValueError unless SB3 can hold such observations."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for name, part in parts.items():
        if not isinstance(part, _FLAT):
            what = f"observation {name!r}" if name else "the observation"
            expected = ", ".join(kind.__name__ for kind in _FLAT)
            raise ValueError(f"{what} is a {type(part).__name__}, expected {expected}, or a Dict of these")
