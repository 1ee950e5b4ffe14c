"""The environment of a run, as its options describe it: one alone, or many side by side."""

import ast
import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv

from fwagents.sb3.vec_env import make_env, make_vec_env

Env = gym.Env[Any, Any]


@dataclass(frozen=True)
class Environment:
    """What ``--env``, ``--env-kwargs`` and ``--wrappers`` say.

    Attributes:
        id: Gymnasium id; "module:Id" imports the module first.
        kwargs: keyword arguments of ``gymnasium.make``.
        wrappers: what goes around each environment, the innermost first.
    """

    id: str
    kwargs: dict[str, Any]
    wrappers: tuple[Callable[[Env], Env], ...] = ()

    def one(self, **kwargs: Any) -> Env:
        """One alone, with further keyword arguments."""
        return make_env(self.id, self.wrappers, **{**self.kwargs, **kwargs})

    def many(self, count: int, seed: int | None) -> VecEnv:
        """Many side by side, for SB3.

        Raises:
            ValueError: there is no such environment, or it cannot be made so.
        """
        try:
            return make_vec_env(self.id, count, seed=seed, wrappers=self.wrappers, **self.kwargs)
        except gym.error.Error as error:
            raise ValueError(str(error)) from error

    def render_mode(self, modes: Sequence[str]) -> str | None:
        """The first of some ways of drawing it that it knows; None if it knows none of them."""
        known = self.render_modes()
        return next((mode for mode in modes if mode in known), None)

    def render_modes(self) -> Sequence[str]:
        """All ways of drawing it."""
        modes: Sequence[str] = self.one().metadata.get("render_modes", [])
        return modes


def wrapper(text: str) -> Callable[[Env], Env]:
    """``"module:Class"`` or ``"module:Class(name=value)"`` as a function of an environment; values are Python literals.

    Raises:
        ValueError: the text is neither, or there is no such class.
    """
    module, _, call = text.partition(":")
    expected = f"wrapper is {text!r}, expected module:Class or module:Class(name=value)"
    try:
        tree = ast.parse(call, mode="eval").body
        kwargs = {}
        if isinstance(tree, ast.Call) and not tree.args:
            kwargs = {str(part.arg): ast.literal_eval(part.value) for part in tree.keywords}
            tree = tree.func
    except (SyntaxError, ValueError) as error:
        raise ValueError(expected) from error
    if not module or not isinstance(tree, ast.Name):
        raise ValueError(expected)
    try:
        made: Callable[..., Env] = getattr(importlib.import_module(module), tree.id)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"wrapper is {text!r}: {error}") from error
    return functools.partial(made, **kwargs)
