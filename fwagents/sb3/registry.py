"""The policies by name, and the one that suits an observation."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from fwagents.sb3.maskable import MaskableMemoryPolicy
from fwagents.sb3.masks import MASKS
from fwagents.sb3.policies import FastWeightPolicy, MemoryCnnPolicy, MemoryMultiInputPolicy, MemoryPolicy

POLICIES: Mapping[str, type[MemoryPolicy]] = {
    "MemoryPolicy": MemoryPolicy,
    "FastWeightPolicy": FastWeightPolicy,
    "MemoryCnnPolicy": MemoryCnnPolicy,
    "MemoryMultiInputPolicy": MemoryMultiInputPolicy,
    "MaskableMemoryPolicy": MaskableMemoryPolicy,
}


def policy_for(space: spaces.Space[Any]) -> str:
    """Return the name in ``POLICIES`` of the policy that suits the observations: their form, and their masks."""
    if isinstance(space, spaces.Dict):
        return "MaskableMemoryPolicy" if MASKS in space.spaces else "MemoryMultiInputPolicy"
    return "MemoryCnnPolicy" if is_image_space(space) else "MemoryPolicy"
