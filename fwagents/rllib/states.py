"""Memory states stay where they arise: with a sample travel only those that a chunk begins with.

RLlib sends the state after every step to the learner, which then picks out one in ``max_seq_len``. For fast weights
each is a matrix, so what is not needed is left behind before a sample leaves its env runner.
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
    """The states that the chunks of a stretch of an episode begin with.

    Attributes:
        steps: steps in the stretch.
        fresh: whether it opens the episode; its first chunk then begins with the initial state, which is left out.
        states: the others, by leaf [n, ...].
    """

    steps: int
    fresh: bool
    states: dict[str, np.ndarray]


def openings(episode: SingleAgentEpisode, chunk_length: int) -> Openings:
    """The states before steps 0, L, 2L ... of a stretch in NumPy form that still has its ``state_out``.

    One may stand behind the last step: the learner adds a step of its own there, to bootstrap from.
    """
    steps, fresh = len(episode), episode.t_started == 0
    after = episode.get_extra_model_outputs(key=Columns.STATE_OUT)  # [steps, ...]
    states = {name: leaf[chunk_length - 1 :: chunk_length].copy() for name, leaf in after.items()}
    if not fresh:
        before = episode.get_extra_model_outputs(key=Columns.STATE_OUT, indices=-1, neg_index_as_lookback=True)
        states = {name: np.concatenate([before[name][None], leaf]) for name, leaf in states.items()}
    return Openings(steps, fresh, states)


class KeepOpenings(RLlibCallback):  # type: ignore[misc]
    """On the env runner: what a sample needs not is left behind."""

    def on_sample_end(self, *, env_runner: Any, samples: list[SingleAgentEpisode], **kwargs: Any) -> None:
        """Put every stretch's ``Openings`` in the place of its states."""
        chunk_length = env_runner.module.model_config[CHUNK_LENGTH]
        for episode in samples:
            if Columns.STATE_OUT in episode.extra_model_outputs:
                episode.custom_data[OPENINGS] = openings(episode, chunk_length)
                del episode.extra_model_outputs[Columns.STATE_OUT]


class OpeningStates(ConnectorV2):  # type: ignore[misc]
    """On the learner: the state that each chunk begins with, from its stretch's ``Openings``."""

    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], episodes: list[SingleAgentEpisode], **kwargs: Any
    ) -> Any:
        """Add ``state_in``, one for each chunk; the batch has its zeros by now.

        Raises:
            ValueError: a stretch was cut after it was sampled, as for several learners; or ``KeepOpenings`` is not
                among the callbacks.
        """
        module = rl_module[DEFAULT_MODULE_ID] if isinstance(rl_module, MultiRLModule) else rl_module
        initial = convert_to_numpy(module.get_initial_state())
        length = module.model_config[CHUNK_LENGTH]
        for episode in episodes:
            kept: Openings | None = episode.custom_data.get(OPENINGS)
            if kept is None:
                raise ValueError("a sample came without its states, expected callbacks to be set before with_memory")
            if len(episode) - kept.steps not in (0, 1):
                raise ValueError(f"a stretch of {kept.steps} steps came as {len(episode)}, expected it whole")
            count = -(-len(episode) // length)
            states = {
                name: (np.concatenate([initial[name][None], leaf]) if kept.fresh else leaf)[:count]
                for name, leaf in kept.states.items()
            }
            self.add_n_batch_items(batch, Columns.STATE_IN, states, count, episode)
        return batch
