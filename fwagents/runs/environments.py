"""The environment of a run, as its options describe it: a single environment or a vectorized one."""

import ast
import contextlib
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from fwagents.runs.cli import NO_LITERAL
from fwagents.sb3.masks import ActionMasks, VecActionMasks
from fwagents.sb3.policies import map_observations
from fwagents.sb3.vec_env import VecEnvKind, Wrapper, make_env, make_vec_env

Env = gym.Env[Any, Any]
PREVIOUS_STEP = "fwagents.envs.wrappers:PreviousStep"


@dataclass(frozen=True)
class Environment:
    """The environment that ``--env`` and its related options describe.

    Attributes:
        id: Gymnasium id; "module:Id" imports the module first.
        kwargs: keyword arguments of ``gymnasium.make``.
        wrappers: wrappers of each environment, the innermost first.
        frame_stack: number of last observations that are stacked into one.
        observe: "action", "reward" or both: parts of the last step that are added to each observation, outside
            ``wrappers`` and inside ``frame_stack``.
        vec_env: see ``fwagents.sb3.make_vec_env``.
        mask_actions: whether the observations hold the environment's ``action_masks()``, outside everything else.
    """

    id: str
    kwargs: dict[str, Any]
    wrappers: tuple[Wrapper, ...] = ()
    frame_stack: int = 1
    vec_env: VecEnvKind = "auto"
    observe: tuple[str, ...] = ()
    mask_actions: bool = False

    @classmethod
    def of(cls, args: Mapping[str, Any], kwargs: dict[str, Any]) -> "Environment":
        """Return the environment that the options of ``fwagents agent`` describe.

        Args:
            args: all options, by name.
            kwargs: keyword arguments that ``--env-kwargs`` gives.
        """
        wrappers = tuple(map(wrapper, args["wrappers"]))
        around = {name: args[name] for name in ("frame_stack", "vec_env", "observe", "mask_actions")}
        return cls(args["env"], kwargs, wrappers, **around)

    def one(self, **kwargs: Any) -> Env:
        """Make a single environment, with further keyword arguments."""
        with self._explained():
            env = make_env(self.id, (*self.wrappers, *self._telling()), **{**self.kwargs, **kwargs})
        stacked = env if self.frame_stack == 1 else StackedFrames(env, self.frame_stack)
        return ActionMasks(stacked) if self.mask_actions else stacked

    def many(self, count: int, seed: int | None) -> VecEnv:
        """Make a vectorized environment for SB3.

        Raises:
            ValueError: there is no such environment, or it cannot be made with these options.
        """
        with self._explained():
            around: dict[str, Any] = {"wrappers": self.wrappers, "vec_env": self.vec_env, "observe": self.observe}
            env = make_vec_env(self.id, count, seed=seed, **around, **self.kwargs)
        stacked = env if self.frame_stack == 1 else VecFrameStack(env, self.frame_stack)
        return VecActionMasks(stacked) if self.mask_actions else stacked

    def reference_returns(self) -> dict[str, float]:
        """Return the exact returns of reference players, by name; empty if they are not known.

        An environment provides them by a function ``returns`` of its arguments, in the module of its class.
        """
        spec = gym.spec(self.id.rpartition(":")[2])
        if self.wrappers or not isinstance(spec.entry_point, str):
            return {}
        module = importlib.import_module(spec.entry_point.partition(":")[0])
        returns = getattr(module, "returns", None)
        if returns is None:
            return {}
        try:
            found: dict[str, float] = returns(**{**spec.kwargs, **self.kwargs})._asdict()
        except TypeError:  # an argument of gymnasium.make, such as a limit of the steps
            return {}
        return found

    def _telling(self) -> tuple[Wrapper, ...]:
        """Return the wrapper that ``observe`` asks for, if any; ``make_vec_env`` does the same for a batch."""
        return (wrapper(f"{PREVIOUS_STEP}(observe={list(self.observe)})"),) if self.observe else ()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn Gymnasium's own errors into ValueErrors."""
        try:
            yield
        except gym.error.Error as error:
            elsewhere = "" if ":" in self.id else " Another package's is module:Id, such as ale_py:ALE/Pong-v5."
            raise ValueError(f"{error}{elsewhere}") from error

    def render_mode(self, modes: Sequence[str]) -> str | None:
        """Return the first of ``modes`` that the environment supports as ``render_mode``; None if it supports none."""
        known = self.render_modes()
        return next((mode for mode in modes if mode in known), None)

    def render_modes(self) -> Sequence[str]:
        """Return the environment's render modes; none if its constructor takes no ``render_mode``."""
        env = self.one()
        env.close()
        entry_point: Any = cast(Any, env.unwrapped.spec).entry_point
        made_by = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        known = inspect.signature(made_by).parameters.values()
        if not any(part.name == "render_mode" or part.kind is part.VAR_KEYWORD for part in known):
            return []
        modes: Sequence[str] = env.metadata.get("render_modes", [])
        return modes


class StackedFrames(gym.Wrapper[Any, Any, Any, Any]):
    """SB3's ``VecFrameStack`` for a single environment.

    Args:
        env: the environment whose observations are stacked.
        count: number of observations in a stack.
    """

    def __init__(self, env: Env, count: int) -> None:
        super().__init__(env)
        self.frames = StackedObservations(1, count, cast(Any, env.observation_space))
        self.observation_space = self.frames.stacked_observation_space

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin with the first observation alone; the other frames are zeros."""
        obs, info = self.env.reset(**kwargs)
        return _first(self.frames.reset(_batch(obs))), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; the new observation replaces the oldest one in the stack."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        stacked, _ = self.frames.update(_batch(obs), np.zeros(1, bool), [{}])
        return _first(stacked), reward, terminated, truncated, info


def _batch(obs: Any) -> Any:
    """Return an observation as a batch of one."""
    return map_observations(lambda part: np.asarray(part)[None], obs)


def _first(batch: Any) -> Any:
    """Return the first observation of a batch."""
    return map_observations(lambda part: part[0], batch)


def wrapper(text: str) -> Wrapper:
    """Turn ``"module:Class"`` or ``"module:Class(name=value)"`` into a function of an environment.

    Values are Python literals. The module is imported, but nothing in it is called except a subclass of
    ``gymnasium.Wrapper``.

    Raises:
        ValueError: the text has another form, there is no such class, or the class is not a wrapper.
    """
    module, _, call = text.partition(":")
    expected = f"wrapper is {text!r}, expected module:Class or module:Class(name=value)"
    try:
        tree = ast.parse(call, mode="eval").body
        kwargs = {}
        if isinstance(tree, ast.Call) and not tree.args:
            kwargs = {str(part.arg): ast.literal_eval(part.value) for part in tree.keywords}
            tree = tree.func
    except NO_LITERAL as error:
        raise ValueError(expected) from error
    if not module or not isinstance(tree, ast.Name):
        raise ValueError(expected)
    try:
        made = getattr(importlib.import_module(module), tree.id)
    except (Exception, SystemExit) as error:  # a module can fail in any way
        raise ValueError(f"wrapper is {text!r}: {error}") from error
    if not (isinstance(made, type) and issubclass(made, gym.Wrapper)):
        raise ValueError(f"wrapper is {text!r}, expected a subclass of gymnasium.Wrapper")
    return functools.partial(made, **kwargs)
