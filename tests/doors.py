"""Registers ``Doors-v0``, an environment with action masks, for ``--env tests.doors:Doors-v0``."""

import gymnasium as gym

from tests.sb3.tiny_envs import DoorsEnv

gym.register("Doors-v0", DoorsEnv)
