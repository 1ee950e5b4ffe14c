"""Computes the gates of a segment, and the queries, keys and values of every head, from the projections."""

from math import sqrt
from typing import Any

import numpy as np

from fwagents.kernels.cpu.problem import FLOAT
from fwagents.kernels.cpu.program_problem import MEMORY, TURNS, Places, ProgramProblem
from fwagents.kernels.cpu.program_rows import ONE, ZERO, projection, take
from fwagents.kernels.cpu.simd import (
    LANES,
    called,
    exp,
    first,
    inlined,
    integer,
    load,
    positive,
    relu,
    scalar,
    set_integer,
    set_scalar,
    splat,
    stay_apart,
    store,
    swap_pairs,
    total,
)

LEAST_LENGTH: Any = np.float32(1e-12)  # as in torch's normalize


@inlined
def turn_rows(p: ProgramProblem, b: int, n: int, anew: int, out: int) -> None:
    """Write cosines and signed sines for n steps after the initial count, or after an episode start (``anew``).

    n is split into multiples of 1, 256 and 65,536 steps, whose angles were reduced exactly.
    """
    row = p.vectors * LANES
    for v in range(0, row, LANES):
        at = p.turns + n % TURNS * 2 * row * FLOAT
        c, s = load(at, v), load(at, row + v)
        more = n // TURNS
        level = 1
        while more > 0 and level < 3:
            at = p.turns + (level * TURNS + more % TURNS) * 2 * row * FLOAT
            x, y = load(at, v), load(at, row + v)
            c, s = c * x - s * y, c * y + s * x
            more //= TURNS
            level += 1
        if anew == 0 and p.turned:
            at = p.turned + b * 2 * row * FLOAT
            x, y = load(at, v), load(at, row + v)
            c, s = c * x - s * y, c * y + s * x
        store(out, v, c)
        store(out, row + v, s)


@inlined
def sigmoids(p: ProgramProblem, b: int, t: int, n: int, gates: int, shut: int) -> None:
    """Compute all gates of a segment, and 1 minus each gate without cancellation."""
    count = p.gates * p.heads
    across = (count + LANES - 1) // LANES * LANES
    one = splat(ONE)
    for i in range(n):
        z = projection(p, b, t + i) + 3 * p.heads * p.size * FLOAT
        for v in range(0, across, LANES):
            e = exp(splat(ZERO) - take(z, v, count - v))
            opened = one / (one + e)
            store(gates, i * across + v, opened)
            store(shut, i * across + v, e * opened)


@called
def convolve(p: ProgramProblem, b: int, t: int, n: int, reach: int, column: int, slopes: int, out: int) -> None:
    """Compute one head's q, k or v of n steps: the convolution, then silu or the feature map.

    Args:
        p: the problem.
        b: row of the batch.
        t: first step.
        n: steps.
        reach: number of earlier steps in the convolution at step t.
        column: first channel of the head.
        slopes: out, derivatives of silu or the feature map; 0 if they are not wanted.
        out: padded rows.
    """
    stay_apart()
    row, channels = p.vectors * LANES, 3 * p.heads * p.size
    one = splat(ONE)
    feature = p.delta == 0 and column < 2 * p.heads * p.size
    for i in range(n):
        z = projection(p, b, t + i)
        many = min(reach + i, p.conv - 1)
        for v in range(0, row, LANES):
            size = p.size - v
            x = take(z, column + v, size) * take(p.taps, (p.conv - 1) * channels + column + v, size)
            for j in range(1, many + 1):
                past = take(projection(p, b, t + i - j), column + v, size)
                x = x + past * take(p.taps, (p.conv - 1 - j) * channels + column + v, size)
            if p.silu:
                e = exp(splat(ZERO) - x)
                opened = one / (one + e)
                if slopes:
                    store(slopes, i * row + v, opened + x * opened * e * opened)
                x = x * opened
            elif feature:
                above = relu(x)
                x = first(above + exp(x - above), size)
                if slopes:
                    rising = positive(x - one)
                    store(slopes, i * row + v, rising + (one - rising) * x)
            store(out, i * row + v, x)


@inlined
def directions(p: ProgramProblem, n: int, turn: int, x: int, lengths: int) -> None:
    """Normalise n rows in place, rotate them unless ``turn`` is 0, and save their norms in ``lengths``."""
    row = p.vectors * LANES
    for i in range(n):
        at = x + i * row * FLOAT
        squares = splat(ZERO)
        for v in range(0, row, LANES):
            squares = squares + load(at, v) * load(at, v)
        length = np.float32(sqrt(total(squares)))
        set_scalar(lengths, i, length)
        scale = splat(ONE / (LEAST_LENGTH if length < LEAST_LENGTH else length))
        for v in range(0, row, LANES):
            d = load(at, v) * scale
            if turn:
                rows = turn + i * 2 * row * FLOAT
                d = d * load(rows, v) + swap_pairs(d) * load(rows, row + v)
            store(at, v, d)


@inlined
def is_turned(p: ProgramProblem, head: int) -> bool:
    """Return whether this head's keys and queries are rotated over time."""
    return p.every != 0 and head % p.every == p.first


@inlined
def instruct(
    p: ProgramProblem, at: Places, b: int, t: int, n: int, reach: int, head: int, slopes: int, scratch: int
) -> None:
    """Compute one head's queries, keys and values of a segment."""
    row, width = p.vectors * LANES, p.heads * p.size
    rows = p.chunk * row * FLOAT
    for part in range(3):
        slope = slopes + part * rows if slopes else 0
        convolve(p, b, t, n, reach, part * width + head * p.size, slope, scratch + at.q * FLOAT + part * rows)
    if p.delta:
        turn = scratch + at.turn * FLOAT if is_turned(p, head) else 0
        for part in range(2):
            lengths = scratch + (at.lengths + part * p.chunk) * FLOAT
            directions(p, n, turn, scratch + at.q * FLOAT + part * rows, lengths)
    else:
        for i in range(n):
            set_scalar(scratch, at.v + i * row + p.size, ONE)


@inlined
def prepare_segment(p: ProgramProblem, at: Places, b: int, t: int, n: int, scratch: int) -> None:
    """Compute the gates and rotations that all heads of a segment share, and advance the step count in ``memory``."""
    row = p.vectors * LANES
    if p.gates:
        sigmoids(p, b, t, n, scratch + at.gates * FLOAT, scratch + at.shut * FLOAT)
    counted, anew = integer(p.memory, MEMORY * b + 1), integer(p.memory, MEMORY * b + 2)
    if p.every:
        for i in range(n):
            turn_rows(p, b, counted + 1 + i, anew, scratch + (at.turn + 2 * i * row) * FLOAT)
    set_integer(p.memory, MEMORY * b + 1, counted + n)


@inlined
def gate(p: ProgramProblem, at: int, head: int, which: int, i: int, scratch: int) -> Any:
    """Return gate beta (``which`` 0) or alpha (1) of step i of the segment; 1 if the head has no such gate."""
    if which >= p.gates:
        return ONE
    across = (p.gates * p.heads + LANES - 1) // LANES * LANES
    return scalar(scratch, at + i * across + which * p.heads + head)
