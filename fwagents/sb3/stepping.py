"""A policy that acts step by step and keeps its memory's state in the form that is fastest to continue from."""

from typing import Any

import torch
from torch import Tensor

from fwagents.sb3.forward import Forward
from fwagents.sb3.policies import MemoryPolicy
from fwagents.sb3.states import MemoryStates
from fwagents.sb3.unchecked import unchecked


class PolicyStepper:
    """Plays a policy in ``n_envs`` environments, without gradients.

    Args:
        policy: the policy that acts; its current weights are used at every step.
        n_envs: B.
    """

    def __init__(self, policy: MemoryPolicy, n_envs: int) -> None:
        self.policy, self.n_envs = policy, n_envs
        self._steppers = {name: core.stepper(n_envs) for name, core in policy.cores.items()}

    @property
    def states(self) -> MemoryStates:
        """The memory's state after the last step; later steps do not change it."""
        states = {name: stepper.state for name, stepper in self._steppers.items()}
        return MemoryStates(states["actor"], states.get("critic"))

    def load(self, states: MemoryStates) -> None:
        """Continue from ``states``."""
        for name, stepper in self._steppers.items():
            stepper.load(getattr(states, name))

    @unchecked()
    @torch.no_grad()
    def step(self, obs: Any, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sample actions.

        Args:
            obs: observations as tensors [B, ...], or a dict of them.
            start: bool [B], True where the observation opens an episode.

        Returns:
            Actions [B, ...], values [B, 1], log-probabilities [B], as SB3's policies give them.

        Raises:
            FloatingPointError: the probabilities of the actions are not finite.
        """

        def run(name: str, features: Tensor) -> Tensor:
            return self._steppers[name].step(features, start)

        distribution, values = Forward(self.policy, obs, run).heads()
        try:
            actions: Tensor = distribution.get_actions()
        except RuntimeError as error:  # torch's message differs from distribution to distribution
            raise FloatingPointError("the probabilities of the actions are not finite") from error
        shape: Any = self.policy.action_space.shape
        return actions.reshape(-1, *shape), values, distribution.log_prob(actions)
