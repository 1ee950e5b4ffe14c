"""A memory policy that takes legal actions only."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableDistribution, make_masked_proba_distribution
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution, MultiCategoricalDistribution
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from fwagents.sb3.encoders import encoder_for
from fwagents.sb3.forward import Forward, OverPacked
from fwagents.sb3.masks import MASKS, checked, choices, joined, own_part, own_space
from fwagents.sb3.packing import Pair
from fwagents.sb3.policies import MemoryPolicy

ILLEGAL = -1e8  # the logit of an illegal action, as in sb3-contrib; its probability is 0 in float32


class MaskableMemoryPolicy(MemoryPolicy):
    """``MemoryPolicy`` that takes legal actions only (Huang and Ontañón, 2022), in the distributions of sb3-contrib.

    The observation holds the masks under the key ``action_masks``, where ``ActionMasks`` and ``VecActionMasks`` put
    them. An illegal action has probability 0, adds nothing to the entropy, and no gradient reaches its logit. Encoder,
    memory and value see the rest of the observation alone.

    Args:
        observation_space: Dict with the masks.
        action_space: Discrete, or MultiDiscrete or MultiBinary of one dimension.
        lr_schedule: as for ``MemoryPolicy``.
        features_extractor_class: encoder of the rest of the observation; by default the encoder of ``MemoryPolicy``,
            ``MemoryCnnPolicy`` or ``MemoryMultiInputPolicy``, whichever suits it.
        **kwargs: every other option of ``MemoryPolicy``.

    Raises:
        ValueError: the observation has no masks, or actions of that space cannot be masked.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict) or MASKS not in observation_space.spaces:
            raise ValueError(
                f"the observation is {observation_space}, expected a Dict with the key {MASKS!r}: ActionMasks(env) "
                "and VecActionMasks(venv) of fwagents.sb3 add it"
            )
        encoder = features_extractor_class or encoder_for(own_space(observation_space))
        super().__init__(observation_space, action_space, lr_schedule, features_extractor_class=encoder, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        # The parent knows the last layer of its own distributions only. This one's layer has the same shape.
        self.action_dist = MultiCategoricalDistribution(choices(self.action_space))
        super()._build(lr_schedule)
        self.action_dist = make_masked_proba_distribution(self.action_space)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Make the encoder of the observation without its masks."""
        make: Any = self.features_extractor_class
        space: Any = self.observation_space
        return WithoutMasks(space, make(own_space(space), **self.features_extractor_kwargs))

    def observed(self, observation: Any, action_masks: Any = None) -> Any:
        """Return the observation with ``action_masks`` in it, in place of its own where it has some.

        Raises:
            ValueError: there are no masks, they are of another size, or they leave an action without a legal choice.
        """
        if action_masks is not None:
            several = np.ndim(action_masks) > 1
            masks = checked(action_masks, self.action_space, len(action_masks) if several else 1)
            return joined(observation, masks if several else masks[0])
        if not isinstance(observation, dict) or MASKS not in observation:
            raise ValueError(f"the observation has no {MASKS!r}, expected that key, or predict(..., {MASKS}=...)")
        return observation

    def action_head(self, actor: Tensor, obs: Any) -> Tensor:
        """Return the logits [..., K], those of illegal actions at ``ILLEGAL``."""
        return torch.where(obs[MASKS].bool(), super().action_head(actor, obs), ILLEGAL)

    def distribution(self, actor: Tensor, obs: Any) -> Distribution:
        """Return the distribution of the legal actions."""
        made: Any = make_masked_proba_distribution(self.action_space)
        # The logits are masked before the softmax, so that the gradient of an illegal one is exactly 0.
        distribution: MaskableDistribution = made.proba_distribution(self.action_head(actor, obs))
        distribution.apply_masking(obs[MASKS].bool())
        return distribution

    def forward(  # type: ignore[override]  # Dict observations too
        self, obs: Any, lstm_states: RNNStates, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Actions, values, log-probabilities and states after the step; arguments as ``RecurrentPPO`` gives them."""
        run = OverPacked(self, lstm_states, episode_starts)
        distribution, values = Forward(self, obs, run).heads()
        actions = distribution.get_actions(deterministic=deterministic)
        shape: Any = self.action_space.shape
        return actions.reshape(-1, *shape), values, distribution.log_prob(actions), run.states

    def get_distribution(  # type: ignore[override]  # as the parent's
        self, obs: Any, lstm_states: Pair, episode_starts: Tensor
    ) -> tuple[Distribution, tuple[Tensor, ...]]:
        """Return the distribution of the legal actions, and the actor's state after the step."""
        run = OverPacked(self, RNNStates(lstm_states, lstm_states), episode_starts)
        return Forward(self, obs, run).distribution(), run.states.pi


class WithoutMasks(BaseFeaturesExtractor):
    """Encoder of an observation without its masks.

    Args:
        observation_space: space of the observation with masks.
        encoder: encoder of the rest.
    """

    def __init__(self, observation_space: spaces.Dict, encoder: BaseFeaturesExtractor) -> None:
        super().__init__(observation_space, encoder.features_dim)
        self.encoder = encoder

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Parts [B, ...] -> [B, features_dim]."""
        features: Tensor = self.encoder(own_part(observations))
        return features
