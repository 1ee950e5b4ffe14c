"""Gymnasium's natively batched environments under Stable-Baselines3."""

import copy
import importlib
import inspect
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Literal, TypeAlias, cast, get_args

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import make_vec_env as make_stock_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from fwagents.cores.base import positive_int
from fwagents.sb3.env_states import Stateful
from fwagents.sb3.masks import MASKS
from fwagents.sb3.previous_step import VecPreviousStep, check_observe
from fwagents.sb3.spaces import check_observations
from fwagents.sb3.watched import WatchedEnv, WatchedSubprocVecEnv

VecEnvKind = Literal["auto", "dummy", "subproc"]
Env: TypeAlias = gym.Env[Any, Any]
Wrapper = Callable[[Env], Env]
# Attributes that describe a whole batch, and the attributes that describe one of its environments.
_OF_ONE = {"action_space": "single_action_space", "observation_space": "single_observation_space"}
# Methods of a batch whose result has a row for each environment.
_BY_ROW = (MASKS,)


class GymnasiumVecEnv(VecEnv):
    """A Gymnasium ``VectorEnv`` as an SB3 ``VecEnv``, monitored.

    Every finished episode is reported in its ``info["episode"]``, as SB3's ``Monitor`` does. The only loop over
    environments is the loop over those whose episode has just ended.

    Args:
        env: batched environment with ``autoreset_mode`` SAME_STEP, which is how SB3's classes reset. It may return the
            same array at every step.

    Raises:
        ValueError: the batch has another autoreset mode, or SB3 does not support its observation space.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"autoreset_mode is {mode}, expected {AutoresetMode.SAME_STEP}: "
                'gymnasium.make_vec(..., vector_kwargs={"autoreset_mode": "SameStep"}) makes such a batch'
            )
        check_observations(env.single_observation_space)
        self.env = env
        self.render_mode = env.render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.returns, self.lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        self.begun = time.time()

    def reset(self) -> VecEnvObs:
        """Reset all environments, with the seeds and options set since the last reset."""
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
        result: VecEnvObs = copy.deepcopy(obs)
        return result

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions for ``step_wait``."""
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments."""
        obs, rewards, terminated, truncated, info = self.env.step(self.actions)
        dones = terminated | truncated
        self.returns += rewards
        self.lengths += 1
        own = {name: value for name, value in info.items() if name.lstrip("_") not in ("final_obs", "final_info")}
        infos = [_of_one(own, i) if own else {} for i in range(self.num_envs)]
        if dones.any():
            last = info.get("final_info", {})
            for i in np.flatnonzero(dones).tolist():
                # A batch that resets in the same step returns the next episode's info for these environments.
                self.reset_infos[i] = infos[i]
                cut = bool(truncated[i] and not terminated[i])
                infos[i] = self._finished(i, info["final_obs"][i], _of_one(last, i), cut)
            self.returns[dones] = 0
            self.lengths[dones] = 0
        return copy.deepcopy(obs), rewards.astype(np.float32), dones, infos

    def _finished(self, i: int, observation: Any, last: dict[str, Any], truncated: bool) -> dict[str, Any]:
        """Return environment i's info for the step that ended its episode."""
        elapsed = round(time.time() - self.begun, 6)
        episode = {"r": float(self.returns[i]), "l": int(self.lengths[i]), "t": elapsed}
        return {**last, "terminal_observation": observation, "TimeLimit.truncated": truncated, "episode": episode}

    def get_state(self) -> dict[str, Any] | None:
        """Return everything that changes from step to step; None if the batch cannot give its state."""
        inner: Any = self.env.unwrapped
        if not hasattr(inner, "get_state"):
            return None
        return {"env": inner.get_state(), "returns": self.returns.copy(), "lengths": self.lengths.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that ``get_state`` returned, without a reset."""
        inner: Any = self.env.unwrapped
        inner.set_state(state["env"])
        self.returns, self.lengths = state["returns"].copy(), state["lengths"].copy()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the picture of every environment."""
        images: Any = self.env.render()
        return images or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the batch's attribute, once for each environment asked for; its spaces are a single environment's."""
        value = getattr(self.env, _OF_ONE.get(attr_name, attr_name))
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the whole batch; raise ValueError for a part of it."""
        self._require_all(indices)
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the whole batch; ValueError for a part of it.

        Returns:
            The result of ``action_masks`` row by row, any other result once for each environment.
        """
        self._require_all(indices)
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return list(result) if method_name in _BY_ROW else [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> Any:
        """Return True for ``Monitor``, since this class monitors the episodes."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]

    def _require_all(self, indices: VecEnvIndices) -> None:
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"indices is {indices!r}, expected None: a batched environment has no parts")


def _of_one(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """Return environment i's info from a batch's info, in which a mask tells which environments have a value."""
    found = {}
    for name, value in infos.items():
        mask = infos.get(f"_{name}")
        if name.startswith("_") or (mask is not None and not mask[i]):
            continue
        if isinstance(value, dict):
            found[name] = _of_one(value, i)
        else:
            found[name] = value[i] if np.ndim(value) else value  # without a mask, one value may hold for all
    return found


def make_env(
    env_id: str | EnvSpec, wrappers: Sequence[Wrapper] = (), *, render_mode: str | None = None, **env_kwargs: Any
) -> Env:
    """Make a single environment.

    Args:
        env_id: Gymnasium id; "module:Id" imports the module first. Or the specification of an environment.
        wrappers: wrappers of the environment, the innermost first.
        render_mode: Gymnasium's render mode; None is not passed on, since not every constructor takes it.
        **env_kwargs: keyword arguments of ``gymnasium.make``.
    """
    drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    return reduce(lambda inner, wrapper: wrapper(inner), wrappers, gym.make(env_id, **drawn, **env_kwargs))


def make_vec_env(
    env_id: str | Callable[..., Env],
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    *,
    wrappers: Sequence[Wrapper] = (),
    vec_env: VecEnvKind = "auto",
    observe: Sequence[str] = (),
    env_kwargs: Mapping[str, Any] | None = None,
    wrapper_class: Wrapper | None = None,
    wrapper_kwargs: Mapping[str, Any] | None = None,
    monitor_dir: str | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    **more_env_kwargs: Any,
) -> VecEnv:
    """Make a monitored ``VecEnv`` for SB3 in the fastest way that the environment allows.

    An environment with a native ``VectorEnv`` that can reset in the same step runs as one batch. Any other environment,
    or one with wrappers or its own ``max_episode_steps``, runs in SB3's ``DummyVecEnv``. The arguments of SB3's
    function of this name have the same meaning here; with ``monitor_dir``, ``monitor_kwargs`` or ``vec_env_cls``, SB3's
    function makes the batch.

    Args:
        env_id: Gymnasium id; "module:Id" imports the module first. Or a class or a function that makes an environment.
        n_envs: number of environments.
        seed: environment i is seeded ``seed + i``; None for fresh entropy.
        start_index: number of the first environment, in messages and in file names of ``monitor_dir``.
        wrappers: wrappers of each environment, the innermost first.
        vec_env: "dummy" for SB3's loop over single environments in any case; "subproc" for one process for each
            environment, which is faster if a step takes milliseconds.
        observe: "action", "reward" or both: parts of the last step to add to the observation; see ``VecPreviousStep``.
        env_kwargs: keyword arguments of ``gymnasium.make``, or of the function that makes an environment.
        wrapper_class: one more wrapper, around ``wrappers``.
        wrapper_kwargs: its keyword arguments.
        monitor_dir: folder for a CSV of every environment's episodes.
        monitor_kwargs: keyword arguments of SB3's ``Monitor``.
        vec_env_cls: class of the batch.
        vec_env_kwargs: its keyword arguments.
        **more_env_kwargs: further keyword arguments of the environment.

    Raises:
        gymnasium.error.Error: no such environment.
        ValueError, TypeError: an argument is not as above, or SB3 does not support the observation space.
        EnvironmentFault: an environment fails when it is used.
    """
    n_envs = positive_int("n_envs", n_envs)
    if observe:
        check_observe(observe)
    if vec_env not in get_args(VecEnvKind):
        raise ValueError(f"vec_env is {vec_env!r}, expected one of {', '.join(get_args(VecEnvKind))}")
    if not isinstance(env_id, str) and not callable(env_id):
        raise TypeError(f"env_id is {env_id!r}, expected a Gymnasium id, or a function that makes an environment")
    kwargs = {**(env_kwargs or {}), **more_env_kwargs}
    around = [*wrappers]
    if wrapper_class is not None:
        around.append(partial(wrapper_class, **(wrapper_kwargs or {})))
    named: dict[str, Any] = {"monitor_dir": monitor_dir, "monitor_kwargs": monitor_kwargs}
    named |= {"vec_env_cls": vec_env_cls, "vec_env_kwargs": vec_env_kwargs}
    stock = {name: value for name, value in named.items() if value is not None}
    make: Callable[[], Env]
    if isinstance(env_id, str):
        module, _, env_name = env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        creator = native_creator(env_name, kwargs)
        same_step = creator is not None and "autoreset_mode" in inspect.signature(creator).parameters
        if same_step and not around and not stock and vec_env == "auto":
            batch = gym.make_vec(env_name, n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs)
            env: VecEnv = GymnasiumVecEnv(batch)
            env.seed(seed)
            return _telling(env, observe)
        # The specification, not the name: another process may not have registered the environment.
        make = partial(make_env, gym.spec(env_name), around, **kwargs)
    else:
        env_name = getattr(env_id, "__name__", type(env_id).__name__)
        make = _applied(env_id, around, kwargs)
    probe = make()  # made here, since an error in another process would give no clear message
    check_observations(probe.observation_space)
    probe.close()
    apart = vec_env == "subproc" or vec_env_cls is SubprocVecEnv
    if stock:
        stock["vec_env_cls"] = WatchedSubprocVecEnv if apart else vec_env_cls
        env = make_stock_vec_env(partial(_watched, make, env_name, None, apart), n_envs, seed, start_index, **stock)
        return _telling(env, observe)
    makers: list[Callable[[], Env]] = [partial(_watched, make, env_name, start_index + i, apart) for i in range(n_envs)]
    env = VecMonitor((WatchedSubprocVecEnv if apart else DummyVecEnv)(makers))
    env.seed(seed)
    return _telling(env, observe)


def _telling(env: VecEnv, observe: Sequence[str]) -> VecEnv:
    """Wrap the batch so that observations include the last action and reward, as far as ``observe`` names them."""
    try:
        return VecPreviousStep(env, observe) if observe else env
    except ValueError:
        env.close()
        raise


def _applied(make: Callable[..., Env], wrappers: Sequence[Wrapper], kwargs: Mapping[str, Any]) -> Callable[[], Env]:
    return lambda: reduce(lambda inner, wrapper: wrapper(inner), wrappers, make(**kwargs))


def _watched(make: Callable[[], Env], name: str, number: int | None, apart: bool) -> Env:
    """Make one environment of a batch; ``apart`` if it runs in its own process."""
    env = WatchedEnv(make(), name, number, apart)
    if not apart:
        return env
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C and ends this process
    return Stateful(env)


def native_creator(env_id: str, env_kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return the constructor of a registered environment's native batch; None if these arguments rule it out."""
    native = gym.spec(env_id).vector_entry_point
    if native is None or "max_episode_steps" in env_kwargs:  # the time limit is a wrapper around single environments
        return None
    return load_env_creator(native) if isinstance(native, str) else native
