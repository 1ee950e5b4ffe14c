"""Partially observable Gymnasium environments; each game exists as a single and as a natively batched environment.

Importing this package registers every environment of `ENVIRONMENTS`. An id that names the package,
`gymnasium.make("fwagents.envs:PartialCatch-v0")`, also imports it. The package needs only gymnasium and numpy, and
loads the file of an environment when the environment is made.
"""

from .registry import ENVIRONMENTS, SUITE, Difficulty, Environment, Returns, reference_returns, register_envs

__all__ = ["ENVIRONMENTS", "SUITE", "Difficulty", "Environment", "Returns", "reference_returns", "register_envs"]

register_envs()
