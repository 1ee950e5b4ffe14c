"""Gymnasium's spaces as JSON."""

from typing import Any

import numpy as np
from gymnasium import spaces


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as what ``json`` writes.

    Raises:
        ValueError: a space that agents do not have.
    """
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bounds_to_json(space.low),
            "high": _bounds_to_json(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.items()}}
    raise ValueError(f"space is {space}, expected a Box, Discrete, MultiDiscrete, MultiBinary or a Dict of such")


def space_from_json(described: dict[str, Any]) -> spaces.Space[Any]:
    """The inverse of :func:`space_to_json`."""
    kind = described["type"]
    if kind == "Box":
        shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
        low, high = (
            np.broadcast_to(np.asarray(described[side], float), shape).astype(dtype) for side in ("low", "high")
        )
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(described["n"], start=described["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(described["nvec"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(described["n"])
    if kind == "Dict":
        return spaces.Dict({key: space_from_json(part) for key, part in described["spaces"].items()})
    raise ValueError(f"space is of type {kind!r}, expected Box, Discrete, MultiDiscrete, MultiBinary or Dict")


def _bounds_to_json(bounds: Any) -> Any:
    """One number where all are the same, else nested lists; what is infinite as text, for which JSON has no number."""
    if bounds.size and (bounds == bounds.flat[0]).all():
        return _number(bounds.flat[0])
    if bounds.ndim == 0:
        return _number(bounds)
    return [_bounds_to_json(part) if bounds.ndim > 1 else _number(part) for part in bounds]


def _number(value: Any) -> float | str:
    number = float(value)
    return number if np.isfinite(number) else str(number)
