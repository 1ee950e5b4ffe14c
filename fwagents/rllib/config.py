"""An RLlib configuration whose agent has a memory."""

from typing import Any, TypeVar

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.common import AddObservationsFromEpisodesToBatch, AddTimeDimToBatchAndZeroPad
from ray.rllib.connectors.learner import AddColumnsFromEpisodesToTrainBatch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from fwagents.cores.base import positive_int
from fwagents.rllib.module import CHUNK_LENGTH, MemoryRLModule
from fwagents.rllib.states import KeepOpenings, OpeningStates

ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)


def with_memory(config: ConfigT, *, chunk_length: int = 32, policy: str | None = None, **policy_kwargs: Any) -> ConfigT:
    """Put a ``MemoryRLModule`` into a configuration of PPO, APPO or IMPALA, in place, and return the configuration.

    Args:
        config: a configuration with one learner; its callbacks must be set already.
        chunk_length: steps over which gradients flow back (RLlib's ``max_seq_len``). RLlib appends one step to every
            fragment of an episode for bootstrapping, so a rollout of n steps needs a chunk of n + 1. A rollout can be
            longer if another environment began an episode, since the reset takes a turn without a step.
        policy: name in ``fwagents.sb3.registry.POLICIES``; by default the one that suits the observations.
        **policy_kwargs: options of ``fwagents.sb3.MemoryPolicy``.

    Raises:
        ValueError: the chunk length is not a positive integer.
    """
    chunk_length = positive_int("chunk_length", chunk_length)
    model_config = {"policy": policy, "policy_kwargs": policy_kwargs, CHUNK_LENGTH: chunk_length}
    spec = RLModuleSpec(module_class=MemoryRLModule, model_config=model_config)
    own = config.callbacks_class
    callbacks = own if isinstance(own, list) else [own]
    config.rl_module(rl_module_spec=spec)
    config.callbacks(callbacks_class=[*callbacks, KeepOpenings])
    config.learners(learner_connector=_learner_connector)
    # As in SB3, actions are clipped and not rescaled.
    config.environment(normalize_actions=False, clip_actions=True)
    return config


def _learner_connector(observation_space: Any, action_space: Any) -> list[Any]:
    """Return RLlib's connectors up to the one for states, then ours; RLlib's default connectors skip added columns."""
    return [
        AddObservationsFromEpisodesToBatch(as_learner_connector=True),
        AddColumnsFromEpisodesToTrainBatch(),
        AddTimeDimToBatchAndZeroPad(as_learner_connector=True),
        OpeningStates(),
    ]
