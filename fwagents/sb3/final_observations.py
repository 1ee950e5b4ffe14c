"""The last observation of an episode, which SB3's batches of environments return in ``info``."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FINAL = "terminal_observation"  # SB3's key


def change_final(
    infos: Sequence[dict[str, Any]], dones: np.ndarray, change: Callable[[Any, int], Any]
) -> Sequence[dict[str, Any]]:
    """Return the infos with the last observation of each episode that has just ended changed.

    Args:
        infos: one dict for each environment; they stay as they are.
        dones: bool [n_envs], True where an episode has just ended.
        change: makes the new observation from the observation and the environment's number.
    """
    if not dones.any():
        return infos
    changed = list(infos)  # SubprocVecEnv gives a tuple
    for i in np.flatnonzero(dones).tolist():
        final = changed[i].get(FINAL)
        if final is not None:
            changed[i] = {**changed[i], FINAL: change(final, i)}
    return changed
