"""The learning algorithms of the command line, as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm

from fwagents.runs.agent import Args
from fwagents.runs.options import TakenBy, hints, metadata
from fwagents.sb3 import MemoryA2C, MemoryPPO


class Algorithm(NamedTuple):
    """An algorithm's constructor and the options that it takes.

    Attributes:
        make: the class.
        options: fields of the command line that the class takes under the same name.
    """

    make: Callable[..., BaseAlgorithm]
    options: tuple[str, ...]


def options(algo: str) -> tuple[str, ...]:
    """Return the fields of the command line that an algorithm's constructor takes, as ``agent.py`` marks them."""
    taken = {name: metadata(Args, name, TakenBy) for name in hints(Args)}
    return tuple(name for name, by in taken.items() if by and algo in dict(by.choices).get("algo", ()))


MAKERS: dict[str, Callable[..., BaseAlgorithm]] = {
    "memory_ppo": MemoryPPO,
    "memory_a2c": MemoryA2C,
    "recurrent_ppo": RecurrentPPO,
    "appo": MemoryPPO,  # RLlib trains the weights; this class plays them
}
ALGORITHMS = {algo: Algorithm(make, options(algo)) for algo, make in MAKERS.items()}


def load_model(algo: str, path: Path, device: str = "cpu") -> BaseAlgorithm:
    """Load a saved agent. Loading SB3's zip runs code in it: load only files that you trust.

    ``fwagents export`` writes agents that load without running anything.
    """
    make: Any = ALGORITHMS[algo].make
    model: BaseAlgorithm = make.load(path, device=device)
    return model
