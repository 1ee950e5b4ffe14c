"""The memory cores by name: a core is one line here and one file in ``fwagents/cores``.

Nothing here imports torch, so the command line can name the cores in its help at once.
"""

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

# File in fwagents/cores, and class, in the order in which help and errors list the names.
CORE_CLASSES: Final[dict[str, tuple[str, str]]] = {
    "fast_weights": ("fast_weights", "FastWeights"),
    "rotary_fast_weights": ("rotary_fast_weights", "RotaryFastWeights"),
    "irnn": ("irnn", "IRNN"),
    "lstm": ("lstm", "LSTM"),
    "gru": ("gru", "GRU"),
    "associative_lstm": ("associative_lstm", "AssociativeLSTM"),
    "sum_rule": ("sum_rule", "SumRule"),
    "delta_net": ("delta_net", "DeltaNet"),
    "gated_delta_net": ("gated_delta_net", "GatedDeltaNet"),
    "hebbian": ("hebbian", "Hebbian"),
    "ffm": ("ffm", "FFM"),
    "none": ("no_memory", "NoMemory"),
}

if TYPE_CHECKING:
    CoreName: TypeAlias = str
else:
    CoreName = Literal[tuple(CORE_CLASSES)]
