"""Checks of the observation and action spaces that an agent can have."""

from typing import Any

import numpy as np
from gymnasium import spaces

# Spaces that SB3 supports, as an observation or a part of one.
FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_observations(space: spaces.Space[Any]) -> None:
    """Raise ValueError unless SB3 supports the observation space."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for name, part in parts.items():
        what = f"observation {name!r}" if name else "the observation"
        if not isinstance(part, FLAT):
            expected = ", ".join(kind.__name__ for kind in FLAT)
            raise ValueError(f"{what} is a {type(part).__name__}, expected {expected}, or a Dict of these")
        check_start(what, part)


def check_start(what: str, space: spaces.Space[Any]) -> None:
    """Raise ValueError if a space counts from another number than 0, which SB3 ignores.

    Args:
        what: name of the space in the message.
        space: space of an observation or action.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        raise ValueError(
            f"{what} is {space}, expected a space that starts at 0: shift it with gymnasium.wrappers.TransformAction "
            "or TransformObservation"
        )
