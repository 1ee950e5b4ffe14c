"""The policies by name, and the one that suits an observation."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from fwagents.sb3.encoders import encoder_for
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
    if isinstance(space, spaces.Dict) and MASKS in space.spaces:
        return "MaskableMemoryPolicy"
    encoder = encoder_for(space)
    return next(name for name, policy in POLICIES.items() if policy.features_extractor_default is encoder)
