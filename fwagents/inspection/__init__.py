"""Attention of a memory: exact for fast weights and fast-weight programmers, by gradients for any core."""

from typing import TYPE_CHECKING, Any, overload

from fwagents.cores import MemoryCore
from fwagents.inspection.attention import Growth, Reads, growth, has_fast_memory, reads
from fwagents.inspection.attribution import attribution
from fwagents.inspection.sequences import trace_sequences
from fwagents.inspection.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from gymnasium import Env
    from stable_baselines3.common.base_class import BaseAlgorithm
    from torch import Tensor

    from fwagents.sb3.policies import MemoryPolicy

__all__ = [
    "Growth",
    "Reads",
    "Trace",
    "attribution",
    "growth",
    "has_fast_memory",
    "reads",
    "trace",
    "trace_sequences",
]


@overload
def trace(
    subject: MemoryCore[Any],
    source: "Tensor",
    *,
    start: "Tensor | None" = None,
    attention: bool = True,
    growth: bool = True,
    attribution: bool = False,
    readout: "Callable[[Tensor], Tensor] | None" = None,
) -> Trace: ...


@overload
def trace(
    subject: "BaseAlgorithm | MemoryPolicy",
    source: "Env[Any, Any]",
    *,
    episodes: int = 1,
    seed: int | None = None,
    deterministic: bool = True,
    normalize_obs: "Callable[[Any], Any] | None" = None,
    attention: bool = True,
    growth: bool = True,
    attribution: bool = False,
) -> Trace: ...


def trace(subject: Any, source: Any, **options: Any) -> Trace:
    """Run a core over sequences, or a trained agent through episodes, and record the memory's activity.

    Args:
        subject: a core; or an SB3 model whose policy is a ``MemoryPolicy`` (MemoryPPO, MemoryA2C, RecurrentPPO), or
            the policy alone.
        source: inputs [T, B, D] for a core; a Gymnasium environment for a model. The environment's screens are
            recorded too if its ``render_mode`` is "rgb_array" or "ansi".
        **options: options of ``trace_sequences`` for a core, of ``episodes.trace_episodes`` for a model.

    Raises:
        TypeError: the model's policy is not a ``MemoryPolicy``.
        ValueError: an argument is out of range; the message names it.
    """
    if isinstance(subject, MemoryCore):
        return trace_sequences(subject, source, **options)
    from fwagents.inspection.episodes import trace_episodes  # imports SB3, which sequences do not need

    return trace_episodes(subject, source, **options)
