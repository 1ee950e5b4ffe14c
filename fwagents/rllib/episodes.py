"""Returns, lengths and successes of finished episodes, logged as for the SB3 agents."""

import time
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback

EPISODES = "finished_episodes"


class EpisodeLog(RLlibCallback):  # type: ignore[misc]
    """Log every finished episode's return ``r``, length ``l``, time ``t`` and success with the metrics.

    ``result["env_runners"]["finished_episodes"]`` lists each episode once.
    """

    def on_episode_end(
        self, *, episode: Any, prev_episode_chunks: Any = None, metrics_logger: Any, **kwargs: Any
    ) -> None:
        """Log the episode, summed over the fragments into which sampling cut it."""
        parts = [*(prev_episode_chunks or []), episode]
        last = episode.get_infos(-1)
        row = {
            "r": float(sum(part.get_return() for part in parts)),
            "l": sum(map(len, parts)),
            "t": time.time(),
            "success": bool(last["is_success"]) if "is_success" in last else None,
        }
        metrics_logger.log_value(EPISODES, row, reduce="item_series")
