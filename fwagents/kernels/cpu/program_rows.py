"""Addresses of the fast-weight programmers' arrays, and rows whose last vector may be partly filled."""

from math import sqrt
from typing import Any

import numpy as np

from fwagents.kernels.cpu.blocks import clear
from fwagents.kernels.cpu.problem import FLOAT
from fwagents.kernels.cpu.program_problem import ProgramProblem
from fwagents.kernels.cpu.simd import (
    LANES,
    add_transposed_tile,
    byte,
    called,
    first,
    inlined,
    load,
    load_first,
    splat,
    stay_apart,
    store,
    store_first,
    total,
)

ZERO: Any = np.float32(0.0)
ONE: Any = np.float32(1.0)


@inlined
def opens(p: ProgramProblem, b: int, t: int) -> bool:
    """Return whether row b begins an episode at step t."""
    return p.start != 0 and byte(p.start, t * p.batch + b) != 0


@inlined
def projection(p: ProgramProblem, b: int, t: int) -> int:
    """Return the address of the projection of step t; t may be one of the c - 1 steps before the first."""
    if t >= 0:
        return p.z + (t * p.batch + b) * p.width * FLOAT
    return p.recent + (b * (p.conv - 1) + p.conv - 1 + t) * 3 * p.heads * p.size * FLOAT


@inlined
def take(x: int, v: int, size: int) -> Any:
    """Load ``size`` floats at ``v``, with zero in the lanes beyond them."""
    if size >= LANES:  # saves the three instructions of a mask
        return load(x, v)
    return load_first(x, v, size)


@inlined
def put(to: int, v: int, x: Any, size: int) -> None:
    """Store the lanes at ``v`` that lie before ``size``."""
    if v + LANES <= size:
        store(to, v, x)
    elif v < size:
        store_first(to, v, x, size - v)


@inlined
def dot(row: int, x: int, y: int) -> Any:
    """Return the dot product of two padded rows."""
    sums = splat(ZERO)
    for v in range(0, row, LANES):
        sums = sums + load(x, v) * load(y, v)
    return total(sums)


@inlined
def mean_and_scale(x: int, size: int, eps: float) -> tuple[Any, Any]:
    """Return the mean of ``size`` floats, and the reciprocal standard deviation of a layer norm."""
    count = np.float32(size)
    sums = splat(ZERO)
    for v in range(0, size, LANES):
        sums = sums + take(x, v, size - v)
    mean = total(sums) / count
    squares = splat(ZERO)
    for v in range(0, size, LANES):
        d = first(take(x, v, size - v) - splat(mean), size - v)
        squares = squares + d * d
    return mean, ONE / np.float32(sqrt(total(squares) / count + np.float32(eps)))


@inlined
def matrix(p: ProgramProblem, base: int, b: int, head: int) -> int:
    """Return the address of a head's matrix of row b; ``base`` is the address of all matrices."""
    row = p.vectors * LANES
    return base + (b * p.heads + head) * row * row * FLOAT


@called
def transpose(rows: int, row: int, x: int, out: int, out_row: int) -> None:
    """Transpose x into ``out``, for rows of ``row`` floats; both sizes are multiples of LANES."""
    stay_apart()
    for r in range(0, row, LANES):
        for i in range(LANES):
            clear(rows // LANES, out + (r + i) * out_row * FLOAT)
        for c in range(0, rows, LANES):
            add_transposed_tile(x + (c * row + r) * FLOAT, row, out + (r * out_row + c) * FLOAT, out_row)


@inlined
def take_matrix(p: ProgramProblem, x: int, out: int, scratch: int) -> None:
    """Copy x [E, d] to ``out``, transposed and padded."""
    row = p.vectors * LANES
    for e in range(row):
        for v in range(0, row, LANES):
            some = p.size - v if e < p.out else 0
            store(scratch, e * row + v, take(x, e * p.size + v, some))
    transpose(row, row, scratch, out, row)


@inlined
def give_matrix(p: ProgramProblem, x: int, out: int, scratch: int) -> None:
    """Invert ``take_matrix``: copy the transposed, padded x to ``out`` [E, d]."""
    row = p.vectors * LANES
    transpose(row, row, x, scratch, row)
    for e in range(p.out):
        for v in range(0, row, LANES):
            put(out + e * p.size * FLOAT, v, load(scratch, e * row + v), p.size)
