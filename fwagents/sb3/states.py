"""The memory of a policy: the state of its actor's core, and of its critic's where that has one."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class MemoryStates(NamedTuple):
    """States, leaves [B, ...].

    Attributes:
        actor: the actor core's State.
        critic: the critic core's State; None unless the policy's critic has a core of its own.
    """

    actor: Any
    critic: Any


def map_states(function: Callable[..., Tensor], *states: MemoryStates) -> MemoryStates:
    """Apply a function of tensors to the leaves that stand in the same place of every state."""
    return MemoryStates(
        *(None if parts[0] is None else type(parts[0])(*map(function, *parts)) for parts in zip(*states, strict=True))
    )
