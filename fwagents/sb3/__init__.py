"""Agents with memory on Stable-Baselines3.

Importing it makes the policies known to RecurrentPPO, and the package's environments to Gymnasium, by name.
"""

from importlib.metadata import entry_points

from sb3_contrib import RecurrentPPO

from fwagents.sb3.policies import (
    AGENT_CORE_KWARGS,
    DenseExtractor,
    FastWeightCnnPolicy,
    FastWeightMultiInputPolicy,
    FastWeightPolicy,
    MemoryCnnPolicy,
    MemoryMultiInputPolicy,
    MemoryPolicy,
)

__all__ = [
    "AGENT_CORE_KWARGS",
    "DenseExtractor",
    "FastWeightCnnPolicy",
    "FastWeightMultiInputPolicy",
    "FastWeightPolicy",
    "MemoryCnnPolicy",
    "MemoryMultiInputPolicy",
    "MemoryPolicy",
]

for _entry in entry_points(group="gymnasium.envs", name="fwagents"):
    _entry.load()()

RecurrentPPO.policy_aliases.update(
    FastWeightPolicy=FastWeightPolicy,
    FastWeightCnnPolicy=FastWeightCnnPolicy,
    FastWeightMultiInputPolicy=FastWeightMultiInputPolicy,
    MemoryPolicy=MemoryPolicy,
    MemoryCnnPolicy=MemoryCnnPolicy,
    MemoryMultiInputPolicy=MemoryMultiInputPolicy,
)
