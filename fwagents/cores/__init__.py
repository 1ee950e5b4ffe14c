"""Memory cores: interchangeable recurrent layers behind one protocol, ``MemoryCore``."""

import inspect
from importlib import import_module
from typing import Any

from fwagents.cores.associative_lstm import AssociativeLSTM, AssociativeLSTMState
from fwagents.cores.base import HiddenState, MemoryCore
from fwagents.cores.delta_net import DeltaNet
from fwagents.cores.fast_weights import FastWeights, FastWeightsState
from fwagents.cores.ffm import FFM, FFMState
from fwagents.cores.gated_delta_net import GatedDeltaNet
from fwagents.cores.gru import GRU
from fwagents.cores.hebbian import Hebbian, HebbianState
from fwagents.cores.irnn import IRNN
from fwagents.cores.lstm import LSTM, LSTMState
from fwagents.cores.no_memory import NoMemory
from fwagents.cores.programmer import ProgrammerState
from fwagents.cores.rotary_fast_weights import RotaryFastWeights, RotaryState
from fwagents.cores.sum_rule import SumRule
from fwagents.registry import CORE_CLASSES

__all__ = [
    "CORES",
    "FFM",
    "GRU",
    "IRNN",
    "LSTM",
    "AssociativeLSTM",
    "AssociativeLSTMState",
    "DeltaNet",
    "FFMState",
    "FastWeights",
    "FastWeightsState",
    "GatedDeltaNet",
    "Hebbian",
    "HebbianState",
    "HiddenState",
    "LSTMState",
    "MemoryCore",
    "NoMemory",
    "ProgrammerState",
    "RotaryFastWeights",
    "RotaryState",
    "SumRule",
    "make_core",
]

CORES: dict[str, type[MemoryCore[Any]]] = {
    name: getattr(import_module(f"fwagents.cores.{file}"), kind) for name, (file, kind) in CORE_CLASSES.items()
}


def make_core(name: str, input_size: int, hidden_size: int, **kwargs: Any) -> MemoryCore[Any]:
    """Build a core by its name in ``CORES``.

    Args:
        name: key of ``CORES``.
        input_size: D.
        hidden_size: H.
        **kwargs: options of that core.

    Raises:
        ValueError: no such core, or a value is out of range.
        TypeError: the core has no such option.
    """
    if name not in CORES:
        raise ValueError(f"core is {name!r}, expected one of {', '.join(CORES)}")
    for option in kwargs:
        if option not in _options(name):
            owners = [other for other in CORES if option in _options(other)]
            elsewhere = f", an option of {', '.join(owners)}" if owners else ""
            known = ", ".join(_options(name)) or "none"
            raise TypeError(f"core {name!r} has no option {option!r}{elsewhere}; it has {known}")
    return CORES[name](input_size, hidden_size, **kwargs)


def _options(name: str) -> list[str]:
    """Return the names of a core's options."""
    parameters = inspect.signature(CORES[name]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
