"""States of a policy's memory: the state of the actor's core, and of the critic's core if there is one."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class MemoryStates(NamedTuple):
    """States of the cores, with leaves [B, ...].

    Attributes:
        actor: the actor core's State.
        critic: the critic core's State; None unless the policy's critic has a core of its own.
    """

    actor: Any
    critic: Any


def map_states(function: Callable[..., Tensor], *states: MemoryStates) -> MemoryStates:
    """Apply a function to the corresponding leaves of several states."""
    return MemoryStates(
        *(None if parts[0] is None else type(parts[0])(*map(function, *parts)) for parts in zip(*states, strict=True))
    )
