"""The learning algorithms of the command line, as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm

from fwagents.sb3 import MemoryA2C, MemoryPPO

COMMON = (
    *("n_steps", "gamma", "gae_lambda", "normalize_advantage"),
    *("ent_coef", "vf_coef", "max_grad_norm", "seed", "device"),
)
PPO = (*COMMON, "batch_size", "n_epochs", "clip_range", "clip_range_vf", "target_kl")


class Algorithm(NamedTuple):
    """How an algorithm is made.

    Attributes:
        make: the class.
        options: fields of the command line that it takes under the same name.
    """

    make: Callable[..., BaseAlgorithm]
    options: tuple[str, ...]


ALGORITHMS = {
    "memory_ppo": Algorithm(MemoryPPO, (*PPO, "chunk_length", "refresh_states")),
    "a2c": Algorithm(MemoryA2C, (*COMMON, "chunk_length", "use_rms_prop")),
    "recurrent_ppo": Algorithm(RecurrentPPO, PPO),
    "appo": Algorithm(MemoryPPO, (*PPO, "chunk_length")),  # RLlib trains it; what it has learned is played by this
}


def load_model(algo: str, path: Path, device: str = "cpu") -> BaseAlgorithm:
    """A saved agent. Loading SB3's zip runs code that it holds: load only what you trust.

    ``train/export.py`` writes agents that load without running anything.
    """
    make: Any = ALGORITHMS[algo].make
    model: BaseAlgorithm = make.load(path, device=device)
    return model
