"""The forward pass of a memory policy: encoder, cores, critic, heads."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from torch import Tensor

from fwagents.sb3.states import MemoryStates

if TYPE_CHECKING:
    from fwagents.sb3.policies import MemoryPolicy

RunCore: TypeAlias = Callable[[str, Tensor], Tensor]
"""Runs a core, "actor" or "critic", on its features [N, D] and returns its outputs [N, H]."""


class Forward:
    """The forward pass of a policy over N observations.

    The outputs of the cores are computed when they are first read. A caller that needs only the values therefore does
    not run the actor's core, unless the critic reads its output.

    Args:
        policy: the policy.
        obs: observations as tensors [N, ...], or a dict of them.
        run: function that runs a core. Only it knows which of the N observations follow each other, and the state.
        prepared: whether the observations have been through SB3's ``preprocess_obs``.

    Attributes:
        features: input of the actor's core [N, D].
        critic_features: input of the critic [N, D].
    """

    def __init__(self, policy: "MemoryPolicy", obs: Any, run: RunCore, prepared: bool = False) -> None:
        self._policy, self._obs, self._run = policy, obs, run
        self._actor: Tensor | None = None
        self._critic: Tensor | None = None
        self.features, self.critic_features = policy.encode(obs, prepared)

    @property
    def actor(self) -> Tensor:
        """The outputs of the actor's core [N, H]."""
        if self._actor is None:
            self._actor = self._run("actor", self.features)
        return self._actor

    @property
    def critic(self) -> Tensor:
        """The input of the value head [N, H]: the critic's or actor's core output, or a layer on the features."""
        if self._critic is None:
            self._critic = self._critic_latent(self._policy.critic_core_mode)
        return self._critic

    def _critic_latent(self, mode: str) -> Tensor:
        if mode == "separate":
            return self._run("critic", self.critic_features)
        if mode == "none":
            latent: Tensor = cast(Any, self._policy.critic)(self.critic_features)
            return latent
        return self.actor.detach() if mode == "detached" else self.actor

    def latents(self) -> tuple[Tensor, Tensor]:
        """Return ``actor`` and ``critic``, for which every core runs."""
        return self.actor, self.critic

    def heads(self) -> tuple[Distribution, Tensor]:
        """Return the action distribution and the values [N, 1]."""
        actor, critic = self.latents()
        return self._policy.distribution(actor, self._obs), self._policy.value_head(critic)

    def distribution(self) -> Distribution:
        """Return the action distribution alone."""
        return self._policy.distribution(self.actor, self._obs)

    def values(self) -> Tensor:
        """Return the values alone [N, 1]."""
        return self._policy.value_head(self.critic)

    def action_inputs(self) -> Tensor:
        """Return the parameters of the action distribution [N, P]."""
        return self._policy.action_head(self.actor, self._obs)


class OverTime:
    """Runs the cores of a policy over sequences; the ``run`` of a ``Forward`` over T * B observations, time first.

    Args:
        policy: the policy.
        states: the memory before the first step; None is an empty memory.
        start: bool [T, B], True where an observation opens an episode.
    """

    def __init__(self, policy: "MemoryPolicy", states: MemoryStates | None, start: Tensor) -> None:
        self._cores, self._states, self._start = policy.cores, states, start
        self._after: dict[str, Any] = {}

    @property
    def states(self) -> MemoryStates:
        """The states after the last step; None for a core that has not run."""
        return MemoryStates(self._after.get("actor"), self._after.get("critic"))

    def __call__(self, name: str, features: Tensor) -> Tensor:
        """Run the core ``name``: features [T * B, D] -> outputs [T * B, H]."""
        before = None if self._states is None else getattr(self._states, name)
        y: Tensor
        y, self._after[name] = self._cores[name](features.view(*self._start.shape, -1), before, self._start)
        return y.flatten(0, 1)


class OverPacked:
    """Runs the cores of a policy on rows and states as ``RecurrentPPO`` lays them out; the ``run`` of a ``Forward``.

    Args:
        policy: the policy.
        states: packed states before the first step of each sequence.
        episode_starts: [N], non-zero where an observation opens an episode.
    """

    def __init__(self, policy: "MemoryPolicy", states: RNNStates, episode_starts: Tensor) -> None:
        self._cores = {"actor": (policy.lstm_actor, states.pi), "critic": (policy.lstm_critic, states.vf)}
        self._start = episode_starts
        self._after: dict[str, Any] = {}

    @property
    def states(self) -> RNNStates:
        """The packed states after the last step; the actor's state twice if the critic has no core of its own."""
        actor = self._after["actor"]
        return RNNStates(actor, self._after.get("critic", actor))

    def __call__(self, name: str, features: Tensor) -> Tensor:
        """Run the core ``name``: features [N, D] -> outputs [N, H]."""
        core, before = self._cores[name]
        y: Tensor
        y, self._after[name] = core(features, before, self._start)
        return y
