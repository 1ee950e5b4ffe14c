"""Gymnasium's natively batched environments under Stable-Baselines3."""

import importlib
import inspect
import time
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from fwagents.cores.base import positive_int


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
        """Begin an episode everywhere, with the seeds given to ``seed`` since the last time."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        obs, _ = cast(Any, self.env).reset(seed=seeds)
        self._reset_seeds()
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
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            last = info.get("final_info", {})
            for i in np.flatnonzero(dones).tolist():
                infos[i] = self._finished(i, info["final_obs"][i], last, bool(truncated[i] and not terminated[i]))
            self.returns[dones] = 0
            self.lengths[dones] = 0
        return obs, rewards.astype(np.float32), dones, infos

    def _finished(self, i: int, observation: Any, last: dict[str, Any], truncated: bool) -> dict[str, Any]:
        """Environment i's info for the step that ended its episode."""
        elapsed = round(time.time() - self.begun, 6)
        episode = {"r": float(self.returns[i]), "l": int(self.lengths[i]), "t": elapsed}
        own = {name: value[i] for name, value in last.items() if not name.startswith("_") and last[f"_{name}"][i]}
        return {**own, "terminal_observation": observation, "TimeLimit.truncated": truncated, "episode": episode}

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


def make_vec_env(env_id: str, n_envs: int = 1, *, seed: int | None = None, **env_kwargs: Any) -> VecEnv:
    """Environments side by side for SB3, monitored, the fastest way there is.

    An environment with a native ``VectorEnv`` that can reset in the same step runs as one batch; any other in SB3's
    ``DummyVecEnv``.

    Args:
        env_id: Gymnasium id; "module:Id" imports the module first.
        n_envs: how many.
        seed: environment i is seeded ``seed + i``; None for fresh entropy.
        **env_kwargs: keyword arguments of the environment.

    Raises:
        gymnasium.error.Error: no such environment.
        ValueError, TypeError: an argument is not as above.
    """
    positive_int("n_envs", n_envs)
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    native = gym.spec(name).vector_entry_point
    if native is not None:
        creator = load_env_creator(native) if isinstance(native, str) else native
        if "autoreset_mode" not in inspect.signature(creator).parameters:
            native = None
    if native is not None:
        batch = gym.make_vec(name, n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **env_kwargs)
        env: VecEnv = GymnasiumVecEnv(batch)
    else:
        env = VecMonitor(DummyVecEnv([lambda: gym.make(name, **env_kwargs)] * n_envs))
    env.seed(seed)
    return env
