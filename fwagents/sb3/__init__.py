"""Agents with memory on Stable-Baselines3.

Importing it makes the policies known to RecurrentPPO, and the package's environments to Gymnasium, by name.
"""

from importlib.metadata import entry_points

from sb3_contrib import RecurrentPPO

from fwagents.sb3.a2c import MemoryA2C
from fwagents.sb3.encoders import DenseExtractor, ImageExtractor, MultiInputExtractor
from fwagents.sb3.maskable import MaskableMemoryPolicy
from fwagents.sb3.masks import ActionMasks, VecActionMasks
from fwagents.sb3.policies import (
    AGENT_CORE_KWARGS,
    FastWeightPolicy,
    MemoryCnnPolicy,
    MemoryMultiInputPolicy,
    MemoryPolicy,
)
from fwagents.sb3.ppo import MemoryPPO
from fwagents.sb3.previous_step import VecPreviousStep
from fwagents.sb3.registry import POLICIES
from fwagents.sb3.vec_env import make_vec_env

__all__ = [
    "AGENT_CORE_KWARGS",
    "ActionMasks",
    "DenseExtractor",
    "FastWeightPolicy",
    "ImageExtractor",
    "MaskableMemoryPolicy",
    "MemoryA2C",
    "MemoryCnnPolicy",
    "MemoryMultiInputPolicy",
    "MemoryPPO",
    "MemoryPolicy",
    "MultiInputExtractor",
    "VecActionMasks",
    "VecPreviousStep",
    "make_vec_env",
]

for _entry in entry_points(group="gymnasium.envs", name="fwagents"):
    _entry.load()()

RecurrentPPO.policy_aliases.update(POLICIES)
