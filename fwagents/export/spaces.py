"""Converts Gymnasium's spaces to JSON and back, with bit-exact bounds."""

from collections import OrderedDict
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces

INFINITE = {"-inf": -np.inf, "inf": np.inf}  # JSON has no infinite numbers


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Convert a space to a dict that ``json`` can write.

    Raises:
        ValueError: agents do not support the space.
    """
    if isinstance(space, spaces.Box) and space.dtype.itemsize <= 8:
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bounds_to_json(space.low, space.bounded_below, "-inf"),
            "high": _bounds_to_json(space.high, space.bounded_above, "inf"),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict) and all(isinstance(key, str) for key in space.spaces):
        return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    raise ValueError(f"space is {space}, expected a Box, Discrete, MultiDiscrete, MultiBinary or a Dict of such")


def space_from_json(described: dict[str, Any]) -> spaces.Space[Any]:
    """Build the space that ``space_to_json`` described.

    Raises:
        ValueError, KeyError: the description is not one of a space.
    """
    kind = described["type"]
    if kind == "Box":
        return _box(described)
    if kind == "Discrete":
        return spaces.Discrete(_whole(described["n"]), start=_whole(described["start"]), **_dtype_of(described))
    if kind == "MultiDiscrete":
        nvec, start = (_array(described[name], _dtype(described)) for name in ("nvec", "start"))
        return spaces.MultiDiscrete(nvec, start=start, dtype=_dtype(described).type)
    if kind == "MultiBinary":
        n = described["n"]
        return spaces.MultiBinary([_whole(size) for size in n] if isinstance(n, list) else _whole(n))
    if kind == "Dict":
        parts = ((key, space_from_json(part)) for key, part in described["spaces"].items())
        return spaces.Dict(OrderedDict(parts))  # an OrderedDict keeps the order of its keys
    raise ValueError(f"space is of type {kind!r}, expected Box, Discrete, MultiDiscrete, MultiBinary or Dict")


def described_size(described: dict[str, Any]) -> int:
    """Return the number of entries in the bounds of a described space, without building the space."""
    if described["type"] == "Dict":
        return sum(described_size(part) for part in described["spaces"].values())
    return prod(_whole(size) for size in described["shape"]) if described["type"] == "Box" else 0


def _box(described: dict[str, Any]) -> spaces.Box:
    dtype, shape = _dtype(described), tuple(_whole(size) for size in described["shape"])
    bounds, bounded = {}, {}
    for side, word, extreme in (("low", "-inf", np.min), ("high", "inf", np.max)):
        value = described[side]
        entries = np.empty(shape, object)
        entries[...] = np.array(value, object).reshape(shape) if isinstance(value, list) else value
        free = entries == word
        if dtype.kind != "f":  # an unbounded integer takes the limit of its dtype
            entries[free] = int(extreme((np.iinfo(dtype).min, np.iinfo(dtype).max))) if dtype.kind in "iu" else None
        bounds[side] = _array(entries.tolist(), dtype)
        bounded[side] = ~(bounds[side] == INFINITE[word]) if dtype.kind == "f" else ~free
    box = spaces.Box(bounds["low"], bounds["high"], dtype=dtype.type)
    box.bounded_below, box.bounded_above = bounded["low"], bounded["high"]
    return box


def _bounds_to_json(bounds: Any, bounded: Any, word: str) -> Any:
    """Convert bounds to one number if all are equal, else to nested lists; infinite bounds become text."""
    entries = np.array(bounds, object)
    if bounds.dtype.kind == "f":
        for name, value in INFINITE.items():
            entries[bounds == value] = name
    else:
        entries[~bounded] = word
    flat = entries.ravel().tolist()
    return flat[0] if flat and all(entry == flat[0] for entry in flat) else entries.tolist()


def _dtype(described: dict[str, Any]) -> np.dtype[Any]:
    name = described["dtype"]
    if not isinstance(name, str):
        raise ValueError(f"dtype is {name!r}, expected the name of one")
    return np.dtype(name)


def _dtype_of(described: dict[str, Any]) -> dict[str, Any]:
    """Return the argument ``dtype`` of a Discrete, or none for int64, since older releases of Gymnasium lack it."""
    dtype = _dtype(described)
    return {} if dtype == np.int64 else {"dtype": dtype.type}


def _array(value: Any, dtype: np.dtype[Any]) -> Any:
    """Convert nested lists to an array; raise ValueError if an entry is not a number of the dtype."""
    entries = np.array(value, object)
    flat = [_number(entry, dtype) for entry in entries.ravel().tolist()]
    return np.array(flat, dtype).reshape(entries.shape)


def _number(entry: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f" and type(entry) in (int, float):
        return float(entry)
    if dtype.kind == "f" and isinstance(entry, str) and entry in INFINITE:
        return INFINITE[entry]
    if dtype.kind == "b" and isinstance(entry, bool):
        return entry
    if dtype.kind in "iu" and np.iinfo(dtype).min <= _whole(entry) <= np.iinfo(dtype).max:
        return entry
    raise ValueError(f"a space of dtype {dtype} has {entry!r}, expected a number of that dtype")


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"a space has {value!r}, expected a whole number")
    return value
