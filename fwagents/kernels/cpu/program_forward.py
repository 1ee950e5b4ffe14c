"""The compiled forward pass of the fast-weight programmers: a row of the batch at a time, a segment at a time.

See :class:`fwagents.kernels.cpu.program_problem.ProgramProblem` for sizes, addresses and what a segment is.
"""

from math import sqrt
from typing import Any

import numpy as np

from fwagents.kernels.cpu.blocks import FLOAT, clear, prefetch_floats
from fwagents.kernels.cpu.program_problem import MEMORY, TURNS, Places, ProgramProblem
from fwagents.kernels.cpu.simd import (
    LANES,
    add_transposed_tile,
    byte,
    called,
    exp,
    first,
    inlined,
    integer,
    load,
    load_first,
    positive,
    relu,
    scalar,
    set_integer,
    set_scalar,
    splat,
    stay_apart,
    store,
    store_first,
    swap_pairs,
    total,
)

ZERO: Any = np.float32(0.0)
ONE: Any = np.float32(1.0)
LEAST_LENGTH: Any = np.float32(1e-12)  # as in torch's normalize
LEAST_SUM: Any = np.float32(1e-6)  # keeps what a sum's reads are divided by off zero


@inlined
def opens(p: ProgramProblem, b: int, t: int) -> bool:
    """Whether row b begins an episode at step t."""
    return p.start != 0 and byte(p.start, t * p.batch + b) != 0


@inlined
def segment_end(p: ProgramProblem, b: int, t: int, last: int) -> int:
    """The step after the segment that begins at step t, at most ``last``."""
    end = min(t - t % p.chunk + p.chunk, last)
    n = t + 1
    while n < end and not opens(p, b, n):
        n += 1
    return n


@inlined
def projection(p: ProgramProblem, b: int, t: int) -> int:
    """Address of what is projected at a step, which may be one of the c - 1 steps before the first."""
    if t >= 0:
        return p.z + (t * p.batch + b) * p.width * FLOAT
    return p.recent + (b * (p.conv - 1) + p.conv - 1 + t) * 3 * p.heads * p.size * FLOAT


@inlined
def take(x: int, v: int, size: int) -> Any:
    """The ``size`` floats at ``v``, zero in the lanes beyond them."""
    if size >= LANES:  # a mask takes three instructions
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
def turn_rows(p: ProgramProblem, b: int, n: int, anew: int, out: int) -> None:
    """Cosines and signed sines n steps after the first one's, or after an episode's start.

    n is taken apart into multiples of 1, 256 and 65,536 steps, whose angles were reduced exactly.
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
    """All gates of a segment, and one less each of them without cancellation."""
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
    """One head's q, k or v behind the convolution and what follows it channel by channel, for n steps.

    Args:
        p: the problem.
        b: row of the batch.
        t: first step.
        n: steps.
        reach: earlier steps that the first one may reach back to.
        column: where the head's channels begin.
        slopes: out, derivatives of what follows the convolution; 0 if they are not wanted.
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
    """Normalise n rows in place and turn them, unless ``turn`` is 0; their lengths are kept."""
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
    """Whether time turns this head's keys and queries."""
    return p.every != 0 and head % p.every == p.first


@inlined
def instruct(
    p: ProgramProblem, at: Places, b: int, t: int, n: int, reach: int, head: int, slopes: int, scratch: int
) -> None:
    """One head's queries, keys and values of a segment, as the rule wants them."""
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
    """Compute what all heads of a segment share: gates, and turns for the steps counted in ``memory``, which go up."""
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
    """One of the gates, beta (0) or alpha (1), of a step of the segment; 1 where there is none."""
    if which >= p.gates:
        return ONE
    across = (p.gates * p.heads + LANES - 1) // LANES * LANES
    return scalar(scratch, at + i * across + which * p.heads + head)


@inlined
def read(size: int, row: int, W: int, k: int, q: int, kept: int, out: int) -> None:
    """Kept = W k, and out = W q."""
    for v in range(0, row, LANES):
        a = b = splat(ZERO)
        for j in range(size):
            w = load(W, j * row + v)
            a = a + splat(scalar(k, j)) * w
            b = b + splat(scalar(q, j)) * w
        store(kept, v, a)
        store(out, v, b)


@inlined
def write(size: int, row: int, W: int, alpha: Any, u: int, k: int) -> None:
    """W = alpha W + u k^T."""
    scale = splat(alpha)
    for v in range(0, row, LANES):
        x = load(u, v)
        for j in range(size):
            store(W, j * row + v, scale * load(W, j * row + v) + splat(scalar(k, j)) * x)


@inlined
def write_and_read(
    size: int, row: int, W: int, alpha: Any, u: int, k: int, next_k: int, next_q: int, kept: int, out: int
) -> None:
    """:func:`write`, then :func:`read` with the next step's key and query, in one pass over W."""
    scale = splat(alpha)
    v = 0
    while v + 2 * LANES <= row:
        x, y = load(u, v), load(u, v + LANES)
        a = b = c = d = splat(ZERO)
        for j in range(size):
            key, at, ask = splat(scalar(k, j)), splat(scalar(next_k, j)), splat(scalar(next_q, j))
            w = scale * load(W, j * row + v) + key * x
            z = scale * load(W, j * row + v + LANES) + key * y
            store(W, j * row + v, w)
            store(W, j * row + v + LANES, z)
            a, b = a + at * w, b + ask * w
            c, d = c + at * z, d + ask * z
        store(kept, v, a)
        store(out, v, b)
        store(kept, v + LANES, c)
        store(out, v + LANES, d)
        v += 2 * LANES
    if v < row:
        x = load(u, v)
        a = b = c = d = splat(ZERO)
        even = size - size % 2
        for j in range(0, even, 2):
            w = scale * load(W, j * row + v) + splat(scalar(k, j)) * x
            z = scale * load(W, (j + 1) * row + v) + splat(scalar(k, j + 1)) * x
            store(W, j * row + v, w)
            store(W, (j + 1) * row + v, z)
            a, b = a + splat(scalar(next_k, j)) * w, b + splat(scalar(next_q, j)) * w
            c, d = c + splat(scalar(next_k, j + 1)) * z, d + splat(scalar(next_q, j + 1)) * z
        if even < size:
            w = scale * load(W, even * row + v) + splat(scalar(k, even)) * x
            store(W, even * row + v, w)
            a, b = a + splat(scalar(next_k, even)) * w, b + splat(scalar(next_q, even)) * w
        store(kept, v, a + c)
        store(out, v, b + d)


@called
def run_head(
    p: ProgramProblem, at: Places, b: int, t: int, n: int, head: int, W: int, empty: bool, scratch: int
) -> None:
    """The recurrence of one head over a segment."""
    stay_apart()
    row, size = p.vectors * LANES, p.size
    q, k, v = scratch + at.q * FLOAT, scratch + at.k * FLOAT, scratch + at.v * FLOAT
    kept = scratch + at.lines * FLOAT
    asked, u, r = kept + row * FLOAT, kept + 2 * row * FLOAT, kept + 3 * row * FLOAT
    if empty:
        for j in range(size):
            clear(p.vectors, W + j * row * FLOAT)
        clear(p.vectors, kept)
        clear(p.vectors, asked)
    else:
        read(size, row, W, k, q, kept, asked)
    for i in range(n):
        here = i * row * FLOAT
        beta, alpha = gate(p, at.gates, head, 0, i, scratch), gate(p, at.gates, head, 1, i, scratch)
        dots = splat(ZERO)
        for c in range(0, row, LANES):
            dots = dots + load(q + here, c) * load(k + here, c)
        likeness, scale, rate = splat(total(dots)), splat(alpha), splat(beta)
        place = (t + i) * p.batch + b
        out = p.reads + (place * p.heads + head) * size * FLOAT
        errors = p.errors + (place * p.heads + head) * size * FLOAT
        for c in range(0, row, LANES):
            e = load(v + here, c)
            if p.delta:
                e = e - scale * load(kept, c)
                if p.errors:
                    put(errors, c, e, size)
            written = rate * e
            store(u, c, written)
            x = scale * load(asked, c) + likeness * written
            if p.delta:
                put(out, c, x, size)
            else:
                store(r, c, x)
        if p.delta == 0:
            sums = scalar(r, size) + LEAST_SUM
            set_scalar(p.sums, place * p.heads + head, sums)
            share = splat(ONE / sums)
            for c in range(0, row, LANES):
                put(out, c, share * load(r, c), size)
        if i + 1 < n:
            after = here + row * FLOAT
            write_and_read(size, row, W, alpha, u, k + here, k + after, q + after, kept, asked)
        else:
            write(size, row, W, alpha, u, k + here)


@inlined
def layer_norm(p: ProgramProblem, b: int, t: int, n: int) -> None:
    """The reads of n steps normalised, over all heads."""
    size = p.heads * p.size
    count = np.float32(size)
    for i in range(n):
        place = ((t + i) * p.batch + b) * size * FLOAT
        x, out = p.reads + place, p.normed + place
        sums = splat(ZERO)
        for v in range(0, size, LANES):
            sums = sums + take(x, v, size - v)
        mean = splat(total(sums) / count)
        squares = splat(ZERO)
        for v in range(0, size, LANES):
            d = first(take(x, v, size - v) - mean, size - v)
            squares = squares + d * d
        scale = splat(ONE / np.float32(sqrt(total(squares) / count + np.float32(p.norm_eps))))
        for v in range(0, size, LANES):
            d = (take(x, v, size - v) - mean) * scale
            d = d * take(p.gain, v, size - v) + take(p.shift, v, size - v)
            put(out, v, d, size)


@inlined
def matrix(p: ProgramProblem, base: int, b: int, head: int) -> int:
    """Address of a head's matrix among those of all rows of the batch."""
    row = p.vectors * LANES
    return base + (b * p.heads + head) * row * row * FLOAT


@called
def transpose(rows: int, row: int, x: int, out: int, out_row: int) -> None:
    """Out = x transposed, for so many rows of ``row`` floats, both multiples of LANES."""
    stay_apart()
    for r in range(0, row, LANES):
        for i in range(LANES):
            clear(rows // LANES, out + (r + i) * out_row * FLOAT)
        for c in range(0, rows, LANES):
            add_transposed_tile(x + (c * row + r) * FLOAT, row, out + (r * out_row + c) * FLOAT, out_row)


@inlined
def take_matrix(p: ProgramProblem, x: int, out: int, scratch: int) -> None:
    """Out = x [E, d], transposed and padded."""
    row = p.vectors * LANES
    for e in range(row):
        for v in range(0, row, LANES):
            some = p.size - v if e < p.out else 0
            store(scratch, e * row + v, take(x, e * p.size + v, some))
    transpose(row, row, scratch, out, row)


@inlined
def give_matrix(p: ProgramProblem, x: int, out: int, scratch: int) -> None:
    """The inverse of :func:`take_matrix`."""
    row = p.vectors * LANES
    transpose(row, row, x, scratch, row)
    for e in range(p.out):
        for v in range(0, row, LANES):
            put(out + e * p.size * FLOAT, v, load(scratch, e * row + v), p.size)


@inlined
def begin_row(p: ProgramProblem, b: int, scratch: int) -> None:
    """The state before the first step: W taken over, nothing counted."""
    if p.held:
        set_integer(p.memory, MEMORY * b, p.conv - 1)
        return
    row = p.vectors * LANES
    set_integer(p.memory, MEMORY * b, p.conv - 1 if p.recent else 0)
    set_integer(p.memory, MEMORY * b + 1, 0)
    set_integer(p.memory, MEMORY * b + 2, 0)
    for head in range(p.heads):
        W = matrix(p, p.W, b, head)
        if p.W_in:
            take_matrix(p, p.W_in + (b * p.heads + head) * p.out * p.size * FLOAT, W, scratch)
        else:
            for i in range(row):
                clear(p.vectors, W + i * row * FLOAT)


@inlined
def end_row(p: ProgramProblem, b: int, scratch: int) -> None:
    """The state after the last step."""
    channels = 3 * p.heads * p.size
    reach, counted = integer(p.memory, MEMORY * b), integer(p.memory, MEMORY * b + 1)
    anew = integer(p.memory, MEMORY * b + 2)
    for i in range(p.conv - 1):
        t = p.steps - p.conv + 1 + i
        out = p.recent_out + (b * (p.conv - 1) + i) * channels * FLOAT
        for v in range(0, channels, LANES):
            if p.conv - 1 - i <= reach:
                put(out, v, take(projection(p, b, t), v, channels - v), channels)
            else:
                put(out, v, splat(ZERO), channels)
    if p.t_out:
        before = scalar(p.t_in, b) if p.t_in and anew == 0 else ZERO
        set_scalar(p.t_out, b, before + np.float32(counted))
    if p.W_out:
        for head in range(p.heads):
            out = p.W_out + (b * p.heads + head) * p.out * p.size * FLOAT
            give_matrix(p, matrix(p, p.W, b, head), out, scratch)


def forward(p: ProgramProblem, at: Places, begin_step: int, end_step: int, begin: int, end: int, scratch: int) -> None:
    """Run some steps of rows ``begin`` to ``end`` of the batch; the steps before them have been run.

    Args:
        p: the problem, which says what is read and written.
        at: where arrays lie in ``scratch``.
        begin_step: first step, 0 or a multiple of ``chunk``.
        end_step: the step after the last.
        begin: first row.
        end: the row after the last.
        scratch: memory of this task.
    """
    row = p.vectors * LANES
    rows = row * row * FLOAT
    for b in range(begin, end):
        if begin_step == 0:
            begin_row(p, b, scratch + at.matrix * FLOAT)
        t = begin_step
        while t < end_step:
            after = segment_end(p, b, t, end_step)
            n = after - t
            fresh = opens(p, b, t)
            if fresh:
                set_integer(p.memory, MEMORY * b, 0)
                set_integer(p.memory, MEMORY * b + 1, 0)
                set_integer(p.memory, MEMORY * b + 2, 1)
            for ahead in range(t + p.chunk, min(after + p.chunk, end_step)):
                prefetch_floats(projection(p, b, ahead), 3 * p.heads * p.size)
            empty = fresh or (t == 0 and p.W_in == 0 and p.held == 0)
            reach = integer(p.memory, MEMORY * b)
            prepare_segment(p, at, b, t, n, scratch)
            for head in range(p.heads):
                W = matrix(p, p.W, b, head)
                if p.traced and t % p.chunk == 0:
                    kept = p.kept + ((b * p.slots + t // p.chunk) * p.heads + head) * rows
                    for i in range(0, row * row, LANES):
                        store(kept, i, splat(ZERO) if empty else load(W, i))
                instruct(p, at, b, t, n, reach, head, 0, scratch)
                run_head(p, at, b, t, n, head, W, empty, scratch)
            if p.gain:
                layer_norm(p, b, t, n)
            set_integer(p.memory, MEMORY * b, min(reach + n, p.conv - 1))
            t = after
        if end_step == p.steps:
            end_row(p, b, scratch + at.matrix * FLOAT)


def mix(
    rows: int, size: int, z: int, width: int, column: int, mixed: int, out: int, dout: int, dmixed: int, dz: int
) -> None:
    """The output gate, ``out = g mixed + (1 - g) skip`` with g a sigmoid; or, if ``dout`` is given, its derivative.

    Args:
        rows: steps and rows of the batch.
        size: H.
        z: projections, of which the gates' begin at ``column`` and the skips' behind them.
        width: floats in a row of ``z``.
        column: see ``z``.
        mixed: M LN[r] + m [rows, H].
        out: [rows, H].
        dout: gradient at ``out``, or 0.
        dmixed: out, gradient at ``mixed``.
        dz: out, gradient at ``z``, of the same rows.
    """
    one = splat(ONE)
    for i in range(rows):
        gates = z + (i * width + column) * FLOAT
        skips = gates + size * FLOAT
        line = i * size * FLOAT
        for v in range(0, size, LANES):
            some = size - v
            e = exp(splat(ZERO) - take(gates, v, some))
            g = one / (one + e)
            skip, m = take(skips, v, some), take(mixed + line, v, some)
            if dout:
                d = take(dout + line, v, some)
                to = dz + (i * width + column) * FLOAT
                put(dmixed + line, v, d * g, size)
                put(to, v, d * (m - skip) * g * (e * g), size)
                put(to + size * FLOAT, v, d * (e * g), size)
            else:
                put(out + line, v, skip + g * (m - skip), size)
