"""The compiled forward pass: all steps of a few rows of the batch at a time."""

from math import sqrt
from typing import Any

import numpy as np

from fwagents.kernels.cpu.blocks import (
    add_combination,
    add_matrix_vector,
    add_product,
    attend,
    clear,
    prefetch_floats,
    set_scaled,
)
from fwagents.kernels.cpu.problem import FLOAT, FOLD, FOLD_KEYS, GO_ON, GROUP, PANEL, RESET, TILE, Problem
from fwagents.kernels.cpu.simd import (
    LANES,
    byte,
    first,
    inlined,
    integer,
    load,
    load_first,
    relu,
    scalar,
    set_integer,
    set_scalar,
    splat,
    store,
    store_first,
    total,
)

ONE: Any = np.float32(1.0)
KEY_EPS = np.float32(1e-8)


@inlined
def read_row(vectors: int, size: int, x: int, out: int) -> None:
    """Copy R floats into a padded row."""
    last = (vectors - 1) * LANES
    for i in range(0, last, LANES):
        store(out, i, load(x, i))
    store(out, last, load_first(x, last, size - last))


@inlined
def write_row(vectors: int, size: int, x: int, out: int) -> None:
    """Copy a padded row to R floats."""
    last = (vectors - 1) * LANES
    for i in range(0, last, LANES):
        store(out, i, load(x, i))
    store_first(out, last, load(x, last), size - last)


@inlined
def panels(vectors: int) -> int:
    """Return the number of panels for a number of vectors."""
    return (vectors + PANEL - 1) // PANEL


@inlined
def pack(rows: int, columns: int, weight: int, transposed: bool, out: int) -> None:
    """Pack a matrix [rows, columns] in panels; with ``transposed``, ``weight`` is [columns, rows]."""
    width = PANEL * LANES
    for begin in range(0, columns, width):
        to = out + begin * rows * FLOAT
        some = min(width, columns - begin)
        for r in range(rows):
            for v in range(0, width, LANES):
                if transposed or v + LANES > some:
                    store(to, r * width + v, splat(np.float32(0.0)))
                else:
                    store(to, r * width + v, load(weight, r * columns + begin + v))
            if transposed:
                for c in range(some):
                    set_scalar(to, r * width + c, scalar(weight, (begin + c) * rows + r))
            else:
                for c in range(some // LANES * LANES, some):
                    set_scalar(to, r * width + c, scalar(weight, r * columns + begin + c))


@inlined
def prepare(p: Problem, out: int) -> None:
    """Pack W and C transposed, then the padded gains, shifts and bias."""
    row = p.vectors * LANES
    panel_row = panels(p.vectors) * PANEL * LANES * FLOAT
    pack(p.size, p.size, p.weight, True, out)
    norm = out + (p.size + p.width) * panel_row
    if p.width:
        pack(p.width, p.size, p.weight_ih, True, out + p.size * panel_row)
        read_row(p.vectors, p.size, p.bias, norm + 2 * p.norms * row * FLOAT)
    for i in range(p.norms):
        read_row(p.vectors, p.size, p.gain + i * p.size * FLOAT, norm + i * row * FLOAT)
        read_row(p.vectors, p.size, p.shift + i * p.size * FLOAT, norm + (p.norms + i) * row * FLOAT)


@inlined
def key_address(p: Problem, b: int, n: int) -> int:
    """Return the address of key n of row b."""
    return p.keys + (b * p.key_rows + n) * p.vectors * LANES * FLOAT


@inlined
def layer_norm(p: Problem, b: int, t: int, i: int, x: int, norm: int, out: int) -> None:
    """Compute out = relu(LN(x)) for inner step i, with gains, then shifts, at ``norm``.

    The normalised values and their scale are saved in the trace.
    """
    row = p.vectors * LANES
    last = row - LANES
    step = (b * p.steps + t) if p.traced else b
    normed = p.normed + (step * p.inner + i) * row * FLOAT
    count = np.float32(p.size)
    sums = load(x, 0)
    for v in range(LANES, row, LANES):
        sums = sums + load(x, v)
    mean = splat(total(sums) / count)
    squares = splat(np.float32(0.0))
    for v in range(0, row, LANES):
        d = load(x, v) - mean
        if v == last:
            d = first(d, p.size - last)
        store(normed, v, d)
        squares = squares + d * d
    scale = ONE / np.float32(sqrt(total(squares) / count + np.float32(p.norm_eps)))
    set_scalar(p.scales, step * p.inner + i, scale)
    scales = splat(scale)
    which = min(i, p.norms - 1) * row
    for v in range(0, row, LANES):
        d = load(normed, v) * scales
        store(normed, v, d)
        store(out, v, relu(d * load(norm, which + v) + load(norm, p.norms * row + which + v)))


@inlined
def write_key(p: Problem, b: int, t: int, h: int) -> None:
    """Append the key of the settled state to the history, and zero the row GROUP places after it."""
    row = p.vectors * LANES
    key = key_address(p, b, p.offset + t)
    clear(p.vectors, key + GROUP * row * FLOAT)
    if p.normalized:
        squares = load(h, 0) * load(h, 0)
        for v in range(LANES, row, LANES):
            squares = squares + load(h, v) * load(h, v)
        scale = ONE / np.float32(sqrt(total(squares) + KEY_EPS))
        step = (b * p.steps + t) if p.traced else b
        set_scalar(p.key_scales, step, scale)
        set_scaled(p.vectors, scale, h, key)
    else:
        set_scaled(p.vectors, ONE, h, key)


@inlined
def fold_into(p: Problem, b: int, upto: int, out: int, scratch: int) -> None:
    """Set ``out`` to the A after key ``upto`` - 1, ``decay^n A + sum of weight key key^T``; ``out`` may be A itself."""
    row = p.vectors * LANES
    begin, A = integer(p.memory, 2 * b), integer(p.memory, 2 * b + 1)
    n = upto - begin
    scale = scalar(p.powers, n)
    for r in range(row):
        at = r * row * FLOAT
        if A == 0:
            clear(p.vectors, out + at)
        else:
            set_scaled(p.vectors, scale, A + at, out + at)
    done = 0
    while done < n:
        some = min(FOLD_KEYS, n - done)
        keys = key_address(p, b, begin + done)
        for k in range(some):
            weight = scalar(p.weights, p.longest - n + done + k)
            set_scaled(p.vectors, weight, keys + k * row * FLOAT, scratch + k * row * FLOAT)
        add_product(p.size, p.vectors, some, scratch, 1, row, keys, row, PANEL * LANES, out, row)
        done += some


@inlined
def has_settled(p: Problem, before: int, s: int) -> bool:
    """Return whether an inner step changed a row by at most the tolerance."""
    moved = squares = splat(np.float32(0.0))
    for v in range(0, p.vectors * LANES, LANES):
        x = load(before, v)
        d = load(s, v) - x
        moved = moved + d * d
        squares = squares + x * x
    return bool(sqrt(total(moved)) <= np.float32(p.tolerance) * sqrt(total(squares)))


@inlined
def settle(p: Problem, b: int, t: int, boundary: int, norm: int, h: int, scratch: int) -> None:
    """Run equation 5 for one row: from ``W h + C x`` to the settled state."""
    row = p.vectors * LANES
    begin, A = integer(p.memory, 2 * b), integer(p.memory, 2 * b + 1)
    n = p.offset + t - begin
    step = (b * p.steps + t) if p.traced else b
    inputs = p.inputs + step * p.inner * row * FLOAT
    s = inputs
    taken = p.inner
    sums = scratch
    scores = scratch + 2 * row * FLOAT
    for v in range(0, row, LANES):
        store(s, v, relu(load(boundary, v)))
    for i in range(p.inner):
        base = boundary if p.sustained else s
        for v in range(0, row, LANES):
            store(sums, v, load(base, v))
        attend(p.vectors, key_address(p, b, begin), n, p.weights + (p.longest - n) * FLOAT, s, scores, sums)
        if A != 0 and p.A == 0:  # this A started from zero, so it is symmetric, and its rows can be streamed as columns
            set_scaled(p.vectors, scalar(p.powers, n), s, scratch + row * FLOAT)
            add_combination(p.vectors, p.size, scratch + row * FLOAT, 1, A, row, sums)
        elif A != 0:
            add_matrix_vector(p.vectors, A, scalar(p.powers, n), s, scratch + row * FLOAT, sums)
        out = h if i + 1 == p.inner else s + row * FLOAT
        if p.norms:
            layer_norm(p, b, t, i, sums, norm, out)
        else:
            for v in range(0, row, LANES):
                store(out, v, relu(load(sums, v)))
        if p.taken and has_settled(p, s, out):
            taken = i + 1
            if taken < p.inner:
                set_scaled(p.vectors, ONE, out, h)
            break
        s = out
    if p.taken:
        set_scalar(p.taken, step, np.float32(taken))
        if A != 0:
            for i in range(taken, p.inner):  # steps not taken must add zero to the product that gives the gradient at A
                clear(p.vectors, inputs + i * row * FLOAT)


@inlined
def write_matrix(p: Problem, b: int, out: int, scratch: int) -> None:
    """Write row b's A after all steps to ``out [R, R]``."""
    row = p.vectors * LANES
    if row == p.size:
        fold_into(p, b, p.offset + p.steps, out, scratch)
        return
    matrix = scratch + FOLD_KEYS * row * FLOAT
    fold_into(p, b, p.offset + p.steps, matrix, scratch)
    for r in range(p.size):
        write_row(p.vectors, p.size, matrix + r * row * FLOAT, out + r * p.size * FLOAT)


def forward(p: Problem, begin: int, end: int, scratch: int) -> None:
    """Run rows ``begin`` to ``end`` of the batch; ``Problem`` lists the inputs and outputs."""
    row = p.vectors * LANES
    packed = p.packed if p.packed else scratch
    if p.packed == 0:
        prepare(p, scratch)
    weight = packed
    panel_row = panels(p.vectors) * PANEL * LANES * FLOAT
    weight_ih = weight + p.size * panel_row
    norm = weight_ih + p.width * panel_row
    bias = norm + 2 * p.norms * row * FLOAT
    h = bias + row * FLOAT if p.packed == 0 else scratch
    boundary = h + TILE * row * FLOAT
    rest = boundary + TILE * row * FLOAT
    keys_scratch = rest + (2 * row + p.longest + 2 * LANES) * FLOAT
    for b in range(begin, end, p.tile):
        rows = min(p.tile, end - b)
        for i in range(rows):
            if p.h:
                read_row(p.vectors, p.size, p.h + (b + i) * p.size * FLOAT, h + i * row * FLOAT)
            else:
                clear(p.vectors, h + i * row * FLOAT)
            if p.offset == 0:
                set_integer(p.memory, 2 * (b + i), 0)
                set_integer(p.memory, 2 * (b + i) + 1, p.A + (b + i) * row * row * FLOAT if p.A else 0)
                for k in range(GROUP):
                    clear(p.vectors, key_address(p, b + i, k))
        for t in range(p.steps):
            for i in range(rows):
                mark = byte(p.marks, (b + i) * p.steps + t) if p.marks else GO_ON
                if mark == RESET:
                    clear(p.vectors, h + i * row * FLOAT)
                    set_integer(p.memory, 2 * (b + i), p.offset + t)
                    set_integer(p.memory, 2 * (b + i) + 1, 0)
                elif mark == FOLD:
                    slot = t // p.fold_every - 1 if p.traced else 0
                    out = p.folded + ((b + i) * p.slots + slot) * row * row * FLOAT
                    fold_into(p, b + i, p.offset + t, out, keys_scratch)
                    set_integer(p.memory, 2 * (b + i), p.offset + t)
                    set_integer(p.memory, 2 * (b + i) + 1, out)
                if p.width:
                    set_scaled(p.vectors, ONE, bias, boundary + i * row * FLOAT)
                else:
                    drive = p.drive + (t * p.batch + b + i) * p.size * FLOAT
                    read_row(p.vectors, p.size, drive, boundary + i * row * FLOAT)
            if t + 1 < p.steps:
                across = p.width if p.width else p.size
                prefetch_floats(p.drive + ((t + 1) * p.batch + b) * across * FLOAT, rows * across)
            if p.width:
                add_product(
                    rows, p.vectors, p.width, p.drive + (t * p.batch + b) * p.width * FLOAT, p.width, 1,
                    weight_ih, PANEL * LANES, p.width * PANEL * LANES, boundary, row,
                )  # fmt: skip
            add_product(
                rows, p.vectors, p.size, h, row, 1,
                weight, PANEL * LANES, p.size * PANEL * LANES, boundary, row,
            )  # fmt: skip
            for i in range(rows):
                at = i * row * FLOAT
                settle(p, b + i, t, boundary + at, norm, h + at, rest)
                write_key(p, b + i, t, h + at)
                write_row(p.vectors, p.size, h + at, p.y + (t * p.batch + b + i) * p.size * FLOAT)
        for i in range(rows):
            write_row(p.vectors, p.size, h + i * row * FLOAT, p.h_out + (b + i) * p.size * FLOAT)
            if p.A_out:
                write_matrix(p, b + i, p.A_out + (b + i) * p.size * p.size * FLOAT, keys_scratch)
