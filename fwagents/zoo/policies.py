"""A policy for RL Zoo's settings, which name a policy before the environment is known."""

from typing import Any

from gymnasium import spaces

from fwagents.sb3.policies import MemoryPolicy
from fwagents.sb3.registry import POLICIES, policy_for


class SuitedPolicy(MemoryPolicy):
    """Makes the policy of ``fwagents.sb3.registry.POLICIES`` that suits the observations.

    Args:
        observation_space: observation space, which selects the policy.
        *args: other arguments of ``fwagents.sb3.MemoryPolicy``.
        **kwargs: other keyword arguments of ``fwagents.sb3.MemoryPolicy``.
    """

    def __new__(cls, observation_space: spaces.Space[Any], *args: Any, **kwargs: Any) -> Any:
        """Return the selected policy, which is not a ``SuitedPolicy``."""
        return POLICIES[policy_for(observation_space)](observation_space, *args, **kwargs)
