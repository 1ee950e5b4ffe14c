"""A memory policy as an RLModule: the same network as in SB3, so weights can be copied in both directions."""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage
from torch import Tensor

from fwagents.cores import MemoryCore
from fwagents.sb3.forward import Forward
from fwagents.sb3.policies import MemoryPolicy, flat_in_time
from fwagents.sb3.registry import POLICIES, policy_for

Batch = dict[str, Any]
CHUNK_LENGTH = "max_seq_len"  # RLlib's name for it


class MemoryRLModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, ValueFunctionAPI):  # type: ignore[misc]
    """A ``fwagents.sb3.MemoryPolicy`` with any core, for RLlib's PPO, APPO and IMPALA.

    RLlib passes every chunk of an episode as a row of its own, [B, T, ...], padded with zeros at the end, with the
    state before its first step. No row holds two episodes, so no start mask is needed. The first chunk of an episode
    begins with the initial state, and padding comes too late to change the outputs before it.

    The state is a dict of the leaves of the actor's core, and of the critic's core if the critic has one, named
    ``actor_h``, ``actor_A``, ``critic_h`` and so on.

    Args:
        observation_space: any space that the policy supports; images may have their channels last.
        action_space: Discrete, MultiDiscrete or Box.
        inference_only: True omits the parts that acting does not need.
        model_config: ``max_seq_len``, the length of a chunk; ``policy_kwargs``, the options of the policy; ``policy``,
            a name in ``fwagents.sb3.registry.POLICIES``, by default the one that suits the observations.

    Raises:
        ValueError: the action space is not supported, or an option is out of range.
        TypeError: an option does not exist.
    """

    policy: MemoryPolicy

    def setup(self) -> None:
        """Build the policy."""
        config = self.model_config or {}  # also holds options that RLlib adds
        options = config.get("policy_kwargs", {})
        action_space = self.action_space
        if not isinstance(action_space, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)):
            raise ValueError(f"action_space is {action_space}, expected Discrete, MultiDiscrete or Box")
        if options.get("use_sde"):
            raise ValueError("use_sde is True, expected False: RLlib has no such distribution")
        if isinstance(action_space, spaces.MultiDiscrete):
            self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(input_lens=action_space.nvec.tolist())
        seen = channels_first(self.observation_space)
        self.moved = moved_parts(self.observation_space)
        make = POLICIES[config.get("policy") or policy_for(seen)]
        self.policy = make(seen, action_space, lambda _: 0.0, **options)
        del self.policy.optimizer  # the learner has its own

    def get_initial_state(self) -> dict[str, Tensor]:
        """Return the leaves of the initial state, without a batch axis."""
        return {
            f"{name}_{field}": leaf.detach()[0]
            for name, core in self.policy.cores.items()
            for field, leaf in core.initial_state(1)._asdict().items()
        }

    def _forward(self, batch: Batch, **kwargs: Any) -> Batch:
        latent, _, state = self._recall(self.policy, batch)
        return {Columns.ACTION_DIST_INPUTS: self._action_inputs(self.policy, latent, batch), Columns.STATE_OUT: state}

    def _forward_train(self, batch: Batch, **kwargs: Any) -> Batch:
        latent, critic, state = self._recall(self.policy, batch)
        return {
            Columns.ACTION_DIST_INPUTS: self._action_inputs(self.policy, latent, batch),
            Columns.STATE_OUT: state,
            Columns.EMBEDDINGS: critic,
        }

    def compute_values(self, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Return the values [B, T]; ``embeddings`` is the entry of that name from ``forward_train``, or None."""
        if embeddings is None:
            _, embeddings, _ = self._recall(self.policy, batch)
        return self.policy.value_head(embeddings).squeeze(-1)

    def make_target_networks(self) -> None:
        """Create APPO's target network."""
        self.target = make_target_network(self.policy)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """Return pairs of a network and the target network that follows it."""
        return [(self.policy, self.target)]

    def forward_target(self, batch: Batch) -> Batch:
        """Compute the inputs of the target network's action distribution."""
        latent, _, _ = self._recall(self.target, batch)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self._action_inputs(self.target, latent, batch)}

    def get_non_inference_attributes(self) -> list[str]:
        """Return the attributes that env runners omit. They keep the critic's memory, since chunks store its state."""
        return ["target"]

    def _recall(self, policy: MemoryPolicy, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the inputs of the heads [B, T, H], for the actor and the critic, and the state after the last step."""
        obs = self._observations(batch[Columns.OBS])
        first: Tensor = next(iter(obs.values())) if isinstance(obs, dict) else obs
        shape = first.shape[:2]
        state: dict[str, Tensor] = {}

        def run(name: str, features: Tensor) -> Tensor:
            y, after = _run(policy.cores[name], features.view(*shape, -1), batch[Columns.STATE_IN], name)
            state.update(after)
            return y.flatten(0, 1)

        latent, critic = (part.view(*shape, -1) for part in Forward(policy, flat_in_time(obs), run).latents())
        return latent, critic, state

    def _observations(self, obs: Any) -> Any:
        """Move the channels of images that have them last to the front."""
        if isinstance(obs, dict):
            return {key: x.movedim(-1, -3) if key in self.moved else x for key, x in obs.items()}
        return obs.movedim(-1, -3) if self.moved else obs

    def _action_inputs(self, policy: MemoryPolicy, latent: Tensor, batch: Batch) -> Tensor:
        """Return the inputs of RLlib's action distribution: logits, or means and logarithms of standard deviations."""
        inputs = policy.action_head(latent, batch[Columns.OBS])
        if isinstance(self.action_space, spaces.Box):
            inputs = torch.cat([inputs, policy.log_std.expand_as(inputs)], dim=-1)
        return inputs


def _run(core: MemoryCore[Any], x: Tensor, state_in: dict[str, Tensor], name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a core over ``x [B, T, D]`` from its leaves of the state; return outputs [B, T, H] and the new leaves."""
    fields = core.state_type._fields
    y, state = core(x.transpose(0, 1), core.state_type(*(state_in[f"{name}_{field}"] for field in fields)))
    return y.transpose(0, 1), {f"{name}_{field}": leaf for field, leaf in zip(fields, state, strict=True)}


def moved_parts(space: spaces.Space[Any]) -> set[str]:
    """Return the names of the images in a space that have their channels last; {""} if the space itself is one."""
    if isinstance(space, spaces.Dict):
        return {key for key, part in space.items() if channels_first(part) != part}
    return {""} if channels_first(space) != space else set()


def channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return the space as SB3's policies see it, with the channels of every image first."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: channels_first(part) for key, part in space.items()})
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def from_sb3(model: BaseAlgorithm, chunk_length: int | None = None) -> MemoryRLModule:
    """Copy an SB3 agent's policy, with its weights, to an RLModule.

    Args:
        model: an agent whose policy is a ``MemoryPolicy``, such as MemoryPPO.
        chunk_length: RLlib's ``max_seq_len``; by default the agent's own, or its ``n_steps``.

    Raises:
        TypeError: the agent's policy is no ``MemoryPolicy``.
    """
    policy = _memory_policy(model)
    given: Any = model
    config = {
        "policy_kwargs": given.policy_kwargs,
        "policy": next(name for name, cls in POLICIES.items() if cls is type(policy)),
        CHUNK_LENGTH: chunk_length or getattr(given, "chunk_length", None) or given.n_steps,
    }
    module = MemoryRLModule(
        observation_space=policy.observation_space, action_space=policy.action_space, model_config=config
    )
    module.policy.load_state_dict(policy.state_dict())
    return module


def to_sb3(module: MemoryRLModule | Mapping[str, Any], model: BaseAlgorithm) -> None:
    """Copy a module's weights to an SB3 agent with the same policy.

    Args:
        module: the module, or its ``get_state()``, as in ``algorithm.learner_group.get_weights()["default_policy"]``.
        model: the agent.

    Raises:
        TypeError: the agent's policy is no ``MemoryPolicy``.
        RuntimeError: the weights do not fit the agent's policy.
    """
    state = module.get_state() if isinstance(module, MemoryRLModule) else module
    own = "policy."
    weights = {name.removeprefix(own): torch.as_tensor(x) for name, x in state.items() if name.startswith(own)}
    _memory_policy(model).load_state_dict(weights)


def _memory_policy(model: BaseAlgorithm) -> MemoryPolicy:
    if not isinstance(model.policy, MemoryPolicy):
        raise TypeError(f"the agent's policy is a {type(model.policy).__name__}, expected a MemoryPolicy")
    return model.policy
