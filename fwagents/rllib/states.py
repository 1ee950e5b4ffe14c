"""Sends only the memory states at which a chunk begins from the env runners to the learner.

RLlib sends the state after every step, and the learner uses one in ``max_seq_len``. A state of fast weights is a
matrix, so the unused states are dropped before a sample leaves its env runner. A fragment is the part of an episode
that one sample holds.
"""

from typing import Any, NamedTuple

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.numpy import convert_to_numpy

from fwagents.rllib.module import CHUNK_LENGTH

OPENINGS = "openings"


class Openings(NamedTuple):
    """States at the beginning of each chunk of an episode fragment.

    Attributes:
        steps: number of steps in the fragment.
        fresh: whether the fragment opens the episode; the first chunk then begins with the initial state, which is
            not stored.
        states: the other states, by leaf [n, ...].
    """

    steps: int
    fresh: bool
    states: dict[str, np.ndarray]


def openings(episode: SingleAgentEpisode, chunk_length: int) -> Openings:
    """Select the states before steps 0, L, 2L ... of a fragment in NumPy form that still has its ``state_out``.

    The last of them may be the state after the last step, where the learner adds a step for bootstrapping.
    """
    steps, fresh = len(episode), episode.t_started == 0
    after = episode.get_extra_model_outputs(key=Columns.STATE_OUT)  # [steps, ...]
    states = {name: leaf[chunk_length - 1 :: chunk_length].copy() for name, leaf in after.items()}
    if not fresh:
        before = episode.get_extra_model_outputs(key=Columns.STATE_OUT, indices=-1, neg_index_as_lookback=True)
        states = {name: np.concatenate([before[name][None], leaf]) for name, leaf in states.items()}
    return Openings(steps, fresh, states)


class KeepOpenings(RLlibCallback):  # type: ignore[misc]
    """Drops every memory state except those at which a chunk begins, before a sample leaves the env runner."""

    def on_sample_end(self, *, env_runner: Any, samples: list[SingleAgentEpisode], **kwargs: Any) -> None:
        """Replace the states of every fragment by its ``Openings``."""
        chunk_length = env_runner.module.model_config[CHUNK_LENGTH]
        for episode in samples:
            if Columns.STATE_OUT in episode.extra_model_outputs:
                episode.custom_data[OPENINGS] = openings(episode, chunk_length)
                del episode.extra_model_outputs[Columns.STATE_OUT]


class OpeningStates(ConnectorV2):  # type: ignore[misc]
    """Adds the state at the beginning of each chunk on the learner, from the fragment's ``Openings``."""

    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], episodes: list[SingleAgentEpisode], **kwargs: Any
    ) -> Any:
        """Add ``state_in`` for each chunk to a batch that is already padded.

        Raises:
            ValueError: a fragment was split after sampling, as happens with several learners; or ``KeepOpenings`` is
                not among the callbacks.
        """
        module = rl_module[DEFAULT_MODULE_ID] if isinstance(rl_module, MultiRLModule) else rl_module
        initial = convert_to_numpy(module.get_initial_state())
        length = module.model_config[CHUNK_LENGTH]
        for episode in episodes:
            kept: Openings | None = episode.custom_data.get(OPENINGS)
            if kept is None:
                raise ValueError("a sample came without its states, expected callbacks to be set before with_memory")
            if len(episode) - kept.steps not in (0, 1):
                raise ValueError(f"an episode fragment has {len(episode)} steps, expected all {kept.steps} sampled")
            count = -(-len(episode) // length)
            states = {
                name: (np.concatenate([initial[name][None], leaf]) if kept.fresh else leaf)[:count]
                for name, leaf in kept.states.items()
            }
            self.add_n_batch_items(batch, Columns.STATE_IN, states, count, episode)
        return batch
