"""The table of all environments, from which registration, tests and benchmarks read.

A new environment needs a file beside this one and a line in `ENVIRONMENTS`. Tests then ask for a row in
docs/environments.md, and for its settings and its perfect player if it is a game of the memory suite.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from gymnasium.envs.registration import register, registry


class Returns(NamedTuple):
    """Exact expected returns of the three reference policies that the environment's docstring defines."""

    optimal: float
    memoryless: float
    random: float


class Difficulty(NamedTuple):
    """The argument that makes an environment harder."""

    parameter: str
    """Name of the argument."""
    values: tuple[int, ...]
    """Example values from easy to hard, for a figure; other values work too."""


@dataclass(frozen=True)
class Environment:
    """Facts about an environment that are known without making it."""

    entry_point: str
    """Class of the single environment, or function that makes it, as `module:name`."""
    kwargs: Mapping[str, Any]
    """All arguments that set the difficulty."""
    needs_memory: bool
    """True if the optimal return cannot be reached without memory."""
    tags: tuple[str, ...]
    """Groups by which environments are selected."""
    reward_threshold: float | None
    """Mean return from which the environment counts as solved; None if none is set."""
    vector_entry_point: str | None = None
    """Constructor of the batched environment, as `module:name`; None if there is none."""
    returns: str | None = None
    """Function from the arguments in `kwargs` to `Returns`, as `module:function`; None if the returns are not known
    exactly."""
    max_episode_steps: int | None = None
    """Step after which Gymnasium truncates an episode; None if it never does."""
    difficulty: Difficulty | None = None
    """Difficulty, if a single argument sets it."""


def _catch(*tags: str, size: int, visible_frames: int | None, needs_memory: bool = True) -> Environment:
    return Environment(
        entry_point="fwagents.envs.catch:CatchEnv",
        vector_entry_point="fwagents.envs.catch:CatchVectorEnv",
        returns="fwagents.envs.catch:returns",
        kwargs={"size": size, "visible_frames": visible_frames, "paddle_width": 2},
        needs_memory=needs_memory,
        tags=("catch", *tags),
        reward_threshold=0.9,
    )


def _hidden(entry_point: str, max_episode_steps: int, reward_threshold: float | None) -> Environment:
    return Environment(
        entry_point=f"fwagents.envs.hidden:{entry_point}",
        kwargs={},
        needs_memory=True,
        tags=("hidden",),
        reward_threshold=reward_threshold,
        max_episode_steps=max_episode_steps,
    )


def _memory(path: str, values: tuple[int, ...], reward_threshold: float = 0.9, **kwargs: int) -> Environment:
    """Describe an environment of the memory suite; the first of `kwargs` is the difficulty."""
    return Environment(
        entry_point=f"fwagents.envs.{path}Env",
        vector_entry_point=f"fwagents.envs.{path}VectorEnv",
        returns=f"fwagents.envs.{path.partition(':')[0]}:returns",
        kwargs=kwargs,
        needs_memory=True,
        tags=("memory",),
        reward_threshold=reward_threshold,
        difficulty=Difficulty(next(iter(kwargs)), values),
    )


ENVIRONMENTS: Mapping[str, Environment] = {
    "PartialCatch-v0": _catch("paper", size=16, visible_frames=3),
    "PartialCatchLarge-v0": _catch("paper", size=24, visible_frames=5),
    "Catch-v0": _catch(size=16, visible_frames=None, needs_memory=False),
    "CartPoleNoVel-v1": _hidden("cart_pole_no_vel", max_episode_steps=500, reward_threshold=475.0),
    "PendulumNoVel-v1": _hidden("pendulum_no_vel", max_episode_steps=200, reward_threshold=None),
    # An agent solves these with 95 % right answers.
    "TMaze-v0": _memory("tmaze:TMaze", (5, 10, 20, 40, 80), reward_threshold=3.795, length=10),
    "KeyValueRecall-v0": _memory("key_value_recall:KeyValueRecall", (1, 2, 4, 8, 16), pairs=4),
    "RepeatPrevious-v0": _memory(
        "repeat_previous:RepeatPrevious", (1, 2, 4, 8, 16, 32), delay=4, symbols=4, answers=16
    ),
    "MemoryChain-v0": _memory("memory_chain:MemoryChain", (5, 10, 20, 40, 80), length=20),
}

SUITE: Mapping[str, Difficulty] = {
    name: environment.difficulty for name, environment in ENVIRONMENTS.items() if environment.difficulty
}
"""Environments with a single difficulty argument, which both `gymnasium.make` and `reference_returns` accept."""


def register_envs() -> None:
    """Register every environment with Gymnasium; calling it again changes nothing."""
    for name, environment in ENVIRONMENTS.items():
        if name in registry and registry[name].entry_point == environment.entry_point:
            continue
        register(
            name,
            entry_point=environment.entry_point,
            vector_entry_point=environment.vector_entry_point,
            reward_threshold=environment.reward_threshold,
            max_episode_steps=environment.max_episode_steps,
            kwargs=dict(environment.kwargs),
        )


def reference_returns(name: str, **kwargs: Any) -> Returns:
    """Return the expected returns of the reference policies on environment `name`; `kwargs` as for `gymnasium.make`.

    Raises:
        ValueError: there is no such environment, or its returns are not known exactly.
    """
    known = {name: environment.returns for name, environment in ENVIRONMENTS.items() if environment.returns}
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    module, function = known[name].split(":")
    returns = cast(Callable[..., Returns], getattr(importlib.import_module(module), function))
    return returns(**{**ENVIRONMENTS[name].kwargs, **kwargs})
