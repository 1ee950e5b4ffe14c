"""Partially observable Gymnasium environments; the games are single and natively batched.

Importing this package registers every environment of `ENVIRONMENTS`; so does naming it inside an id:
`gymnasium.make("fwagents.envs:PartialCatch-v0")`. It needs gymnasium and numpy only, and loads an environment's own
file when that environment is made.
"""

from .registry import ENVIRONMENTS, SUITE, Difficulty, Environment, Returns, reference_returns, register_envs

__all__ = ["ENVIRONMENTS", "SUITE", "Difficulty", "Environment", "Returns", "reference_returns", "register_envs"]

register_envs()
