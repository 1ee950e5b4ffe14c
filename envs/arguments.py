"""Checks of arguments; an error message names the argument, its value and the expected values."""

from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST = 1_000_000  # larger values would exhaust memory or overflow 64-bit integers


def whole_number(name: str, value: object, low: int, high: int | None = None, *, most: int = LARGEST) -> int:
    """Return `value` as an int if it is a whole number from `low` to `high`, and at most `most`; else raise."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < low or (high is not None and value > high):
        expected = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value!r}")
    return int(value)


def whole_numbers(name: str, value: object, shape: tuple[int, ...], count: int) -> npt.NDArray[np.int64]:
    """Broadcast `value`, whole numbers from 0 to `count` - 1 that may lack the first axes of `shape`, to [*shape]."""
    array: npt.NDArray[Any] = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be made of whole numbers, got {value!r}")
    allowed = [shape[axes:] for axes in range(len(shape) - 1, -1, -1)]
    if array.shape not in ((), *allowed):
        expected = " or ".join(map(str, allowed))
        raise ValueError(f"{name} must be one number or have shape {expected}, got shape {array.shape}")
    if np.any(array < 0) or np.any(array >= count):
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {value!r}")
    return np.broadcast_to(array, shape).astype(np.int64)


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise unless `value` is among `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
