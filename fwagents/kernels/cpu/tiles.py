"""Register tiles: products of a few rows and vectors whose sums stay in registers, and the scores of a few keys.

A processor runs about eight additions at once, so a small tile keeps several partial sums of every entry.
"""

from typing import Any

import numpy as np

from fwagents.kernels.cpu.simd import LANES, inlined, load, scalar, splat, store, store_totals


@inlined
def _zero() -> Any:
    return splat(np.float32(0.0))


@inlined
def tile_4x2(k: int, a: int, a_row: int, a_k: int, b: int, b_k: int, c: int, c_row: int) -> None:
    """Compute C += A B for four rows and two vectors of columns.

    A's entry (i, j) lies at ``a + i a_row + j a_k`` floats, B's row j at ``b + j b_k``, C's row i at ``c + i c_row``.
    """
    p0, p1 = load(c, 0), load(c, LANES)
    q0, q1 = load(c, c_row), load(c, c_row + LANES)
    r0, r1 = load(c, 2 * c_row), load(c, 2 * c_row + LANES)
    s0, s1 = load(c, 3 * c_row), load(c, 3 * c_row + LANES)
    for j in range(k):
        x, y = load(b, j * b_k), load(b, j * b_k + LANES)
        at = j * a_k
        p, q = splat(scalar(a, at)), splat(scalar(a, at + a_row))
        r, s = splat(scalar(a, at + 2 * a_row)), splat(scalar(a, at + 3 * a_row))
        p0, p1 = p0 + p * x, p1 + p * y
        q0, q1 = q0 + q * x, q1 + q * y
        r0, r1 = r0 + r * x, r1 + r * y
        s0, s1 = s0 + s * x, s1 + s * y
    store(c, 0, p0)
    store(c, LANES, p1)
    store(c, c_row, q0)
    store(c, c_row + LANES, q1)
    store(c, 2 * c_row, r0)
    store(c, 2 * c_row + LANES, r1)
    store(c, 3 * c_row, s0)
    store(c, 3 * c_row + LANES, s1)


@inlined
def tile_4x1(k: int, a: int, a_row: int, a_k: int, b: int, b_k: int, c: int, c_row: int) -> None:
    """Compute the product of ``tile_4x2`` for one vector of columns, in two partial sums each."""
    p0, q0, r0, s0 = load(c, 0), load(c, c_row), load(c, 2 * c_row), load(c, 3 * c_row)
    p1 = q1 = r1 = s1 = _zero()
    even = k - k % 2
    for j in range(0, even, 2):
        x, y = load(b, j * b_k), load(b, (j + 1) * b_k)
        at, after = j * a_k, (j + 1) * a_k
        p0, p1 = p0 + splat(scalar(a, at)) * x, p1 + splat(scalar(a, after)) * y
        q0, q1 = q0 + splat(scalar(a, at + a_row)) * x, q1 + splat(scalar(a, after + a_row)) * y
        r0, r1 = r0 + splat(scalar(a, at + 2 * a_row)) * x, r1 + splat(scalar(a, after + 2 * a_row)) * y
        s0, s1 = s0 + splat(scalar(a, at + 3 * a_row)) * x, s1 + splat(scalar(a, after + 3 * a_row)) * y
    if even < k:
        x, at = load(b, even * b_k), even * a_k
        p0, q0 = p0 + splat(scalar(a, at)) * x, q0 + splat(scalar(a, at + a_row)) * x
        r0, s0 = r0 + splat(scalar(a, at + 2 * a_row)) * x, s0 + splat(scalar(a, at + 3 * a_row)) * x
    store(c, 0, p0 + p1)
    store(c, c_row, q0 + q1)
    store(c, 2 * c_row, r0 + r1)
    store(c, 3 * c_row, s0 + s1)


@inlined
def tile_1x8(k: int, a: int, a_k: int, b: int, b_k: int, c: int) -> None:
    """Compute the product of ``tile_4x2`` for one row and eight vectors of columns."""
    s0, s1, s2, s3 = load(c, 0), load(c, LANES), load(c, 2 * LANES), load(c, 3 * LANES)
    s4, s5, s6, s7 = load(c, 4 * LANES), load(c, 5 * LANES), load(c, 6 * LANES), load(c, 7 * LANES)
    for j in range(k):
        x, at = splat(scalar(a, j * a_k)), j * b_k
        s0, s1 = s0 + x * load(b, at), s1 + x * load(b, at + LANES)
        s2, s3 = s2 + x * load(b, at + 2 * LANES), s3 + x * load(b, at + 3 * LANES)
        s4, s5 = s4 + x * load(b, at + 4 * LANES), s5 + x * load(b, at + 5 * LANES)
        s6, s7 = s6 + x * load(b, at + 6 * LANES), s7 + x * load(b, at + 7 * LANES)
    store(c, 0, s0)
    store(c, LANES, s1)
    store(c, 2 * LANES, s2)
    store(c, 3 * LANES, s3)
    store(c, 4 * LANES, s4)
    store(c, 5 * LANES, s5)
    store(c, 6 * LANES, s6)
    store(c, 7 * LANES, s7)


@inlined
def tile_1x2(k: int, a: int, a_k: int, b: int, b_k: int, c: int) -> None:
    """Compute the product of ``tile_4x2`` for one row, in four partial sums each."""
    p0, q0 = load(c, 0), load(c, LANES)
    p1 = p2 = p3 = q1 = q2 = q3 = _zero()
    fours = k - k % 4
    for j in range(0, fours, 4):
        x, y = splat(scalar(a, j * a_k)), splat(scalar(a, (j + 1) * a_k))
        z, w = splat(scalar(a, (j + 2) * a_k)), splat(scalar(a, (j + 3) * a_k))
        at = j * b_k
        p0, q0 = p0 + x * load(b, at), q0 + x * load(b, at + LANES)
        p1, q1 = p1 + y * load(b, at + b_k), q1 + y * load(b, at + b_k + LANES)
        p2, q2 = p2 + z * load(b, at + 2 * b_k), q2 + z * load(b, at + 2 * b_k + LANES)
        p3, q3 = p3 + w * load(b, at + 3 * b_k), q3 + w * load(b, at + 3 * b_k + LANES)
    for j in range(fours, k):
        x = splat(scalar(a, j * a_k))
        p0, q0 = p0 + x * load(b, j * b_k), q0 + x * load(b, j * b_k + LANES)
    store(c, 0, (p0 + p1) + (p2 + p3))
    store(c, LANES, (q0 + q1) + (q2 + q3))


@inlined
def tile_1x1(k: int, a: int, a_k: int, b: int, b_k: int, c: int) -> None:
    """Compute the product of ``tile_4x2`` for one row and one vector of columns, in four partial sums."""
    p0 = load(c, 0)
    p1 = p2 = p3 = _zero()
    fours = k - k % 4
    for j in range(0, fours, 4):
        at = j * b_k
        p0 = p0 + splat(scalar(a, j * a_k)) * load(b, at)
        p1 = p1 + splat(scalar(a, (j + 1) * a_k)) * load(b, at + b_k)
        p2 = p2 + splat(scalar(a, (j + 2) * a_k)) * load(b, at + 2 * b_k)
        p3 = p3 + splat(scalar(a, (j + 3) * a_k)) * load(b, at + 3 * b_k)
    for j in range(fours, k):
        p0 = p0 + splat(scalar(a, j * a_k)) * load(b, j * b_k)
    store(c, 0, (p0 + p1) + (p2 + p3))


@inlined
def dots(vectors: int, rows: int, row: int, x: int, out: int) -> None:
    """Store the scalar products of x with GROUP rows, ``row`` floats apart."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = _zero()
    for v in range(0, vectors * LANES, LANES):
        y = load(x, v)
        s0, s1 = s0 + y * load(rows, v), s1 + y * load(rows, v + row)
        s2, s3 = s2 + y * load(rows, v + 2 * row), s3 + y * load(rows, v + 3 * row)
        s4, s5 = s4 + y * load(rows, v + 4 * row), s5 + y * load(rows, v + 5 * row)
        s6, s7 = s6 + y * load(rows, v + 6 * row), s7 + y * load(rows, v + 7 * row)
    store_totals(out, 0, s0, s1, s2, s3, s4, s5, s6, s7)
