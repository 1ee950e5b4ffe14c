"""The compiled backward pass of the fast-weight programmers, a segment at a time from the last to the first.

Within a segment a read is attention to what was written, so neither W nor the gradient at it is formed at every step:
with ``L[t, s]`` the share that is left at step t of what was written at step s, W0 before the segment and G the
gradient at W behind it, dr the gradient at the read and de that at the error::

    dq(t) = L[t] W0^T dr(t) + sum_{s<=t} L[t, s] (dr(t) . u(s)) k(s)
    du(s) = L[n, s] G k(s) + sum_{t>=s} L[t, s] (q(t) . k(s)) dr(t) - sum_{t>s} L[t, s] (k(t) . k(s)) de(t)
    de(t) = beta(t) du(t)
    dk(s) = L[n, s] G^T u(s) + sum_{t>=s} L[t, s] (dr(t) . u(s)) q(t) - sum_{t>s} L[t, s] (de(t) . u(s)) k(t)
            - L[s] W0^T de(s) - sum_{t<s} L[s, t] (de(s) . u(t)) k(t)
"""

from math import sqrt
from typing import Any

import numpy as np

from fwagents.kernels.cpu.blocks import FLOAT, add_combination, add_product, clear, prefetch_floats, set_scaled
from fwagents.kernels.cpu.program_forward import (
    LEAST_LENGTH,
    ONE,
    ZERO,
    gate,
    give_matrix,
    instruct,
    is_turned,
    matrix,
    opens,
    prepare_segment,
    projection,
    put,
    take,
    take_matrix,
    transpose,
)
from fwagents.kernels.cpu.program_problem import MEMORY, Places, ProgramGradients, ProgramProblem
from fwagents.kernels.cpu.simd import (
    LANES,
    PANEL,
    called,
    first,
    inlined,
    integer,
    load,
    scalar,
    set_integer,
    set_scalar,
    splat,
    stay_apart,
    store,
    swap_pairs,
    total,
)

PLAIN = PANEL * LANES  # distance of panels in a matrix of plain rows
BLOCK = 4  # rows of a triangular product that go together


@inlined
def segment_begin(p: ProgramProblem, b: int, t: int, least: int) -> int:
    """The first step, at least ``least``, of the segment that holds step t."""
    begin = max(t - t % p.chunk, least)
    n = t
    while n > begin and not opens(p, b, n):
        n -= 1
    return n


@inlined
def dot(row: int, x: int, y: int) -> Any:
    """Scalar product of two padded rows."""
    sums = splat(ZERO)
    for v in range(0, row, LANES):
        sums = sums + load(x, v) * load(y, v)
    return total(sums)


@called
def lower(n: int, vectors: int, a: int, a_row: int, b: int, out: int) -> None:
    """Out += A B for a lower triangular A [n, n]; rows of ``out`` and B are padded rows."""
    stay_apart()
    row = vectors * LANES
    for i in range(0, n, BLOCK):
        some, keys = min(BLOCK, n - i), min(i + BLOCK, n)
        add_product(some, vectors, keys, a + i * a_row * FLOAT, a_row, 1, b, row, PLAIN, out + i * row * FLOAT, row)


@called
def upper(n: int, vectors: int, a: int, a_row: int, b: int, out: int) -> None:
    """Out += A^T B for a lower triangular A [n, n]."""
    stay_apart()
    row = vectors * LANES
    for i in range(0, n, BLOCK):
        some, at = min(BLOCK, n - i), i * row * FLOAT
        add_product(
            some, vectors, n - i, a + (i * a_row + i) * FLOAT, 1, a_row, b + at, row, PLAIN, out + at, row
        )  # fmt: skip


@called
def scores(n: int, chunk: int, size: int, row: int, left: int, x: int, y: int, diagonal: bool, out: int) -> None:
    """``out[t, s] = left[t, s] (x(t) . y(s))`` below the diagonal or on it, zero elsewhere; [n, chunk].

    x has padded rows of ``size`` floats, y is transposed: [size, chunk].
    """
    stay_apart()
    across = (n + LANES - 1) // LANES * LANES
    for t in range(n):
        for s in range(0, across, LANES):
            store(out, t * chunk + s, splat(ZERO))
    add_product(n, across // LANES, size, x, row, 1, y, chunk, PLAIN, out, chunk)
    for t in range(n):
        for s in range(0, across, LANES):
            at = t * chunk + s
            store(out, at, load(left, at) * load(out, at))
        if not diagonal:
            set_scalar(out, t * chunk + t, ZERO)


@inlined
def what_is_left(p: ProgramProblem, at: Places, n: int, head: int, scratch: int) -> None:
    """L [n, chunk]; zero above the diagonal."""
    left = scratch + at.left * FLOAT
    for t in range(n):
        scale = splat(gate(p, at.gates, head, 1, t, scratch))
        for s in range(0, p.chunk, LANES):
            here = t * p.chunk + s
            if t == 0:
                store(left, here, splat(ZERO))
            else:
                store(left, here, scale * load(left, here - p.chunk))
        set_scalar(left, t * p.chunk + t, ONE)


@inlined
def gradients_at_reads(p: ProgramProblem, at: Places, b: int, t: int, n: int, dy: int, norm: int, scratch: int) -> None:
    """Gradients at the reads of all heads, behind the layer norm if there is one; its own gradients go to ``norm``."""
    size = p.heads * p.size
    across = (size + LANES - 1) // LANES * LANES
    count = np.float32(size)
    for i in range(n):
        place = ((t + i) * p.batch + b) * size * FLOAT
        out, d, x = scratch + (at.reads + i * across) * FLOAT, dy + place, p.reads + place
        if p.gain == 0:
            for v in range(0, across, LANES):
                store(out, v, take(d, v, size - v))
            continue
        sums = splat(ZERO)
        for v in range(0, size, LANES):
            sums = sums + take(x, v, size - v)
        mean = splat(total(sums) / count)
        squares = splat(ZERO)
        for v in range(0, size, LANES):
            c = first(take(x, v, size - v) - mean, size - v)
            squares = squares + c * c
        scale = splat(ONE / np.float32(sqrt(total(squares) / count + np.float32(p.norm_eps))))
        sums = along = splat(ZERO)
        for v in range(0, size, LANES):
            normed = first(take(x, v, size - v) - mean, size - v) * scale
            dv = take(d, v, size - v)
            put(norm, v, take(norm, v, size - v) + dv * normed, size)
            put(norm + size * FLOAT, v, take(norm + size * FLOAT, v, size - v) + dv, size)
            dv = dv * take(p.gain, v, size - v)
            sums = sums + dv
            along = along + dv * normed
            store(out, v, dv)
        mean_d, mean_along = splat(total(sums) / count), splat(total(along) / count)
        for v in range(0, across, LANES):
            normed = first(take(x, v, size - v) - mean, size - v) * scale
            store(out, v, first(scale * (load(out, v) - mean_d - normed * mean_along), size - v))


@inlined
def recall(p: ProgramProblem, at: Places, b: int, t: int, n: int, head: int, scratch: int) -> None:
    """Load what the forward pass has kept of one head, and the gradients at its reads, in padded rows."""
    row, size = p.vectors * LANES, p.size
    across = (p.heads * size + LANES - 1) // LANES * LANES
    for i in range(n):
        place = (t + i) * p.batch + b
        dr = scratch + (at.reads + i * across + head * size) * FLOAT
        errors = p.errors + (place * p.heads + head) * size * FLOAT
        rate = splat(gate(p, at.gates, head, 0, i, scratch))
        share = splat(ONE)
        if p.delta == 0:
            share = splat(ONE / scalar(p.sums, place * p.heads + head))
        for v in range(0, row, LANES):
            here = i * row + v
            store(scratch, at.dr + here, share * take(dr, v, size - v))
            if p.delta:
                e = take(errors, v, size - v)
                store(scratch, at.errors + here, e)
                store(scratch, at.u + here, rate * e)
            else:
                store(scratch, at.u + here, load(scratch, at.v + here))
        if p.delta == 0:
            r = p.reads + (place * p.heads + head) * size * FLOAT
            sums = splat(ZERO)
            for v in range(0, row, LANES):
                sums = sums + load(scratch, at.dr + i * row + v) * take(r, v, size - v)
            set_scalar(scratch, at.dr + i * row + size, -total(sums))
    for i in range(n, (n + LANES - 1) // LANES * LANES):  # scored along with the others
        clear(p.vectors, scratch + (at.u + i * row) * FLOAT)
        clear(p.vectors, scratch + (at.k + i * row) * FLOAT)


@inlined
def scale_rows(p: ProgramProblem, n: int, x: int, factors: int, step: int, out: int) -> None:
    """``out(t) = factors[t] x(t)``, the factors ``step`` floats apart."""
    row = p.vectors * LANES
    for t in range(n):
        set_scaled(p.vectors, scalar(factors, t * step), x + t * row * FLOAT, out + t * row * FLOAT)


@called
def turn_back(
    p: ProgramProblem, at: Places, b: int, t: int, n: int, head: int, G: int, kept: int, scratch: int
) -> None:
    """Gradients at queries, keys and what is written, over a segment; ``kept`` is W before it, or 0."""
    stay_apart()
    row, vectors, chunk = p.vectors * LANES, p.vectors, p.chunk
    rows, square = chunk * row * FLOAT, chunk * chunk * FLOAT
    q, k, u = scratch + at.q * FLOAT, scratch + at.k * FLOAT, scratch + at.u * FLOAT
    dr, de, du = scratch + at.dr * FLOAT, scratch + at.de * FLOAT, scratch + at.du * FLOAT
    dq, dk = scratch + at.dq * FLOAT, scratch + at.dk * FLOAT
    scaled_dr = scratch + at.scaled * FLOAT
    scaled_de, scaled_u = scaled_dr + rows, scaled_dr + 2 * rows
    left, other = scratch + at.left * FLOAT, scratch + at.matrix * FLOAT
    qk = scratch + at.qk * FLOAT
    kk, drive, correction = qk + square, qk + 2 * square, qk + 3 * square
    last = left + (n - 1) * chunk * FLOAT
    # L of the segment's beginning, for each step.
    since = scratch + at.lines * FLOAT
    factor = ONE
    for i in range(n):
        factor = factor * gate(p, at.gates, head, 1, i, scratch)
        set_scalar(since, i, factor)
    for i in range(n):
        for v in range(0, row, LANES):
            store(du, i * row + v, splat(ZERO))
            store(dq, i * row + v, splat(ZERO))
            store(dk, i * row + v, splat(ZERO))
    # Through G.
    add_product(n, vectors, p.size, k, row, 1, G, row, PLAIN, du, row)
    scale_rows(p, n, du, last, 1, du)
    transpose(row, row, G, other, row)
    scale_rows(p, n, u, last, 1, scaled_u)
    add_product(n, vectors, p.out, scaled_u, row, 1, other, row, PLAIN, dk, row)
    # Inside the segment.
    across = (n + LANES - 1) // LANES * LANES
    columns_k, columns_u = scaled_dr, scaled_u  # in places that are free until later, or from now on
    transpose(across, row, k, columns_k, chunk)
    transpose(across, row, u, columns_u, chunk)
    scores(n, chunk, p.size, row, left, q, columns_k, True, qk)
    scores(n, chunk, p.out, row, left, dr, columns_u, True, drive)
    upper(n, vectors, qk, chunk, dr, du)
    upper(n, vectors, drive, chunk, q, dk)
    lower(n, vectors, drive, chunk, k, dq)
    if p.delta:
        scores(n, chunk, p.size, row, left, k, columns_k, False, kk)
        for i in range(n - 1, -1, -1):
            if i + 1 < n:
                below = (i + 1) * row * FLOAT
                add_combination(
                    vectors, n - i - 1, kk + ((i + 1) * chunk + i) * FLOAT, chunk, de + below, row, du + i * row * FLOAT
                )  # fmt: skip
            rate = gate(p, at.gates, head, 0, i, scratch)
            set_scaled(vectors, -rate, du + i * row * FLOAT, de + i * row * FLOAT)
        scores(n, chunk, p.out, row, left, de, columns_u, False, correction)
        upper(n, vectors, correction, chunk, k, dk)
        lower(n, vectors, correction, chunk, k, dk)
        scale_rows(p, n, de, since, 1, scaled_de)
    scale_rows(p, n, dr, since, 1, scaled_dr)
    if kept:
        transpose(row, row, kept, other, row)
        add_product(n, vectors, p.out, scaled_dr, row, 1, other, row, PLAIN, dq, row)
        if p.delta:
            add_product(n, vectors, p.out, scaled_de, row, 1, other, row, PLAIN, dk, row)
    # The gradient at W before the segment.
    for j in range(row):
        set_scaled(vectors, factor, G + j * row * FLOAT, G + j * row * FLOAT)
    add_product(p.size, vectors, n, q, 1, row, scaled_dr, row, PLAIN, G, row)
    if p.delta:
        add_product(p.size, vectors, n, k, 1, row, scaled_de, row, PLAIN, G, row)


@inlined
def gate_gradients(
    p: ProgramProblem, at: Places, b: int, t: int, n: int, head: int, g: ProgramGradients, scratch: int
) -> None:
    """At beta and alpha before their sigmoids.

    With the product of W(t) and its gradient, entry by entry and summed up, alpha's needs neither of the two: it is
    this product less what the step has written into it, and goes on to the step before.
    """
    row, size = p.vectors * LANES, p.size
    across = (p.gates * p.heads + LANES - 1) // LANES * LANES
    product = scalar(g.scale, b * p.heads + head)
    for i in range(n - 1, -1, -1):
        here = i * row * FLOAT
        du, de = scratch + at.du * FLOAT + here, scratch + at.de * FLOAT + here
        errors, v = scratch + at.errors * FLOAT + here, scratch + at.v * FLOAT + here
        place = (t + i) * p.batch + b
        dz = g.z + (place * p.width + 3 * p.heads * size) * FLOAT
        beta = gate(p, at.gates, head, 0, i, scratch)
        through = dot(row, du, errors)
        closed = scalar(scratch, at.shut + i * across + head)
        set_scalar(dz, head, through * beta * closed)
        if p.gates > 1:
            r = p.reads + (place * p.heads + head) * size * FLOAT
            dr = scratch + at.dr * FLOAT + here
            sums = splat(ZERO)
            for c in range(0, row, LANES):
                sums = sums + load(dr, c) * take(r, c, size - c)
                sums = sums + load(de, c) * (load(v, c) - load(errors, c))
            product = product + total(sums) - beta * through
            closed = scalar(scratch, at.shut + i * across + p.heads + head)
            set_scalar(dz, p.heads + head, product * closed)
    set_scalar(g.scale, b * p.heads + head, product)


@inlined
def undirect(p: ProgramProblem, n: int, turn: int, x: int, lengths: int, dx: int) -> None:
    """Gradients at what :func:`directions` was given, in place; x is what it made of them."""
    row = p.vectors * LANES
    for i in range(n):
        at, d = x + i * row * FLOAT, dx + i * row * FLOAT
        length = scalar(lengths, i)
        along = splat(dot(row, at, d))
        scale = splat(ONE / length)
        if length < LEAST_LENGTH:
            scale, along = splat(ONE / LEAST_LENGTH), splat(ZERO)
        for v in range(0, row, LANES):
            y = scale * (load(d, v) - along * load(at, v))
            if turn:
                rows = turn + i * 2 * row * FLOAT
                y = y * load(rows, v) - swap_pairs(y) * load(rows, row + v)
            store(d, v, y)


@called
def unconvolve(
    p: ProgramProblem, b: int, t: int, n: int, reach: int, column: int, carry: int, tail: int, dtaps: int, dz: int,
    recent_out: int, rows: int,
) -> None:  # fmt: skip
    """Gradients at the projections of one head's q, k or v, and at the taps.

    Args:
        p: the problem.
        b: row of the batch.
        t: first step.
        n: steps.
        reach: earlier steps that the first one reached back to.
        column: where the head's channels begin.
        carry: gradients behind the convolution of the c - 1 steps after these; replaced by those of these.
        tail: 1 if the last projections may be of this segment.
        dtaps: gradient at the taps, added to.
        dz: out.
        recent_out: gradient at the last projections, or 0.
        rows: gradients behind the convolution, with room for c - 1 more.
    """
    stay_apart()
    row, channels, past = p.vectors * LANES, 3 * p.heads * p.size, p.conv - 1
    for i in range(past):
        for v in range(0, row, LANES):
            store(rows, (n + i) * row + v, load(carry, i * row + v))
    for i in range(n):
        out = dz + ((t + i) * p.batch + b) * p.width * FLOAT
        last = t + i - (p.steps - past)
        for v in range(0, row, LANES):
            size = p.size - v
            x = splat(ZERO)
            for j in range(p.conv):
                x = x + take(p.taps, (past - j) * channels + column + v, size) * load(rows, (i + j) * row + v)
            if recent_out and tail and last >= 0:
                x = x + take(recent_out, (b * past + last) * channels + column + v, size)
            put(out + column * FLOAT, v, x, p.size)
    for j in range(p.conv):
        begin = max(j - reach, 0)
        for v in range(0, row, LANES):
            size = p.size - v
            x = splat(ZERO)
            for i in range(begin, n):
                x = x + take(projection(p, b, t + i - j), column + v, size) * load(rows, i * row + v)
            to = dtaps + ((past - j) * channels + column) * FLOAT
            put(to, v, take(to, v, size) + x, p.size)
    for i in range(past):
        for v in range(0, row, LANES):
            store(carry, i * row + v, load(rows, i * row + v))


@inlined
def recent_gradients(p: ProgramProblem, g: ProgramGradients, b: int) -> None:
    """At the projections before the first step."""
    row, channels, past = p.vectors * LANES, 3 * p.heads * p.size, p.conv - 1
    tail = integer(g.tail, b)
    for head in range(p.heads):
        for part in range(3):
            column = part * p.heads * p.size + head * p.size
            carry = g.carry + ((b * p.heads + head) * 3 + part) * past * row * FLOAT
            for i in range(past):
                to = g.recent + ((b * past + i) * channels + column) * FLOAT
                last = i - p.steps
                for v in range(0, row, LANES):
                    size = p.size - v
                    x = splat(ZERO)
                    for j in range(past - i, p.conv):
                        at = (past - j) * channels + column + v
                        x = x + take(p.taps, at, size) * load(carry, (j + i - past) * row + v)
                    if g.recent_out and tail and last >= 0:
                        x = x + take(g.recent_out, (b * past + last) * channels + column + v, size)
                    put(to, v, x, p.size)


@inlined
def end_gradients(p: ProgramProblem, g: ProgramGradients, b: int, scratch: int) -> None:
    """Set the gradients with which the backward pass begins, after the last step."""
    row = p.vectors * LANES
    set_integer(g.tail, b, 1)
    for head in range(p.heads):
        G = matrix(p, g.G, b, head)
        if g.W_out:
            take_matrix(p, g.W_out + (b * p.heads + head) * p.out * p.size * FLOAT, G, scratch)
        else:
            for i in range(row):
                clear(p.vectors, G + i * row * FLOAT)
        carry = g.carry + (b * p.heads + head) * 3 * (p.conv - 1) * row * FLOAT
        for i in range(3 * (p.conv - 1)):
            clear(p.vectors, carry + i * row * FLOAT)


@inlined
def forget(p: ProgramProblem, g: ProgramGradients, b: int) -> None:
    """Nothing passes an episode's start."""
    row = p.vectors * LANES
    set_integer(g.tail, b, 0)
    for head in range(p.heads):
        set_scalar(g.scale, b * p.heads + head, ZERO)
        G = matrix(p, g.G, b, head)
        for i in range(row):
            clear(p.vectors, G + i * row * FLOAT)
        carry = g.carry + (b * p.heads + head) * 3 * (p.conv - 1) * row * FLOAT
        for i in range(3 * (p.conv - 1)):
            clear(p.vectors, carry + i * row * FLOAT)


@inlined
def last_start(p: ProgramProblem, b: int, t: int) -> int:
    """The last step up to t at which an episode begins; -1 if there is none."""
    n = t if p.start else -1
    while n >= 0 and not opens(p, b, n):
        n -= 1
    return n


def backward(
    p: ProgramProblem,
    g: ProgramGradients,
    at: Places,
    begin_step: int,
    end_step: int,
    begin: int,
    end: int,
    which: int,
    scratch: int,
) -> None:
    """The derivative of :func:`fwagents.kernels.cpu.program_forward.forward`; the steps after these have been done.

    Args:
        p: the problem.
        g: where gradients are read and written.
        at: where arrays lie in ``scratch``.
        begin_step: first step, 0 or a multiple of ``chunk``.
        end_step: the step after the last.
        begin: first row.
        end: the row after the last.
        which: number of this task.
        scratch: memory of this task.
    """
    row, size, width = p.vectors * LANES, p.size, p.heads * p.size
    rows = row * row * FLOAT
    dtaps = g.taps + which * p.conv * 3 * width * FLOAT
    norm = g.norm + which * 2 * width * FLOAT
    step_rows = p.chunk * row * FLOAT
    if end_step == p.steps:
        for i in range(p.conv * 3 * width):
            set_scalar(dtaps, i, ZERO)
        if p.gain:
            for i in range(2 * width):
                set_scalar(norm, i, ZERO)
    for b in range(begin, end):
        if end_step == p.steps:
            end_gradients(p, g, b, scratch + at.matrix * FLOAT)
        after = end_step
        while after > begin_step:
            t = segment_begin(p, b, after - 1, begin_step)
            n = after - t
            fresh = opens(p, b, t)
            empty = fresh or (t == 0 and p.W_in == 0)
            started = last_start(p, b, t)
            anew = started >= 0
            before = t - started if anew else t
            reach = min(before, p.conv - 1) if anew or p.recent == 0 else p.conv - 1
            set_integer(p.memory, MEMORY * b + 1, before)
            set_integer(p.memory, MEMORY * b + 2, int(anew))
            prepare_segment(p, at, b, t, n, scratch)
            gradients_at_reads(p, at, b, t, n, g.y, norm, scratch)
            tail = integer(g.tail, b)
            for ahead in range(max(t - p.chunk, begin_step), t):
                prefetch_floats(projection(p, b, ahead), 3 * width)
                prefetch_floats(g.z + (ahead * p.batch + b) * p.width * FLOAT, 3 * width)
            for head in range(p.heads):
                G = matrix(p, g.G, b, head)
                kept = 0 if empty else p.kept + ((b * p.slots + t // p.chunk) * p.heads + head) * rows
                slopes = scratch + at.slopes * FLOAT if p.silu or p.delta == 0 else 0
                instruct(p, at, b, t, n, reach, head, slopes, scratch)
                what_is_left(p, at, n, head, scratch)
                recall(p, at, b, t, n, head, scratch)
                turn_back(p, at, b, t, n, head, G, kept, scratch)
                if p.gates:
                    gate_gradients(p, at, b, t, n, head, g, scratch)
                turn = scratch + at.turn * FLOAT if is_turned(p, head) else 0
                for part in range(3):
                    conv = scratch + at.conv * FLOAT
                    given = scratch + at.dq * FLOAT + part * step_rows if part < 2 else scratch + at.du * FLOAT
                    sign = ONE
                    if p.delta and part < 2:
                        lengths = scratch + (at.lengths + part * p.chunk) * FLOAT
                        undirect(p, n, turn, scratch + at.q * FLOAT + part * step_rows, lengths, given)
                    elif p.delta:
                        given = scratch + at.de * FLOAT
                        sign = -ONE
                    signs = splat(sign)
                    for i in range(0, n * row, LANES):
                        x = signs * load(given, i)
                        if p.silu or (p.delta == 0 and part < 2):
                            x = x * load(slopes + part * step_rows, i)
                        store(conv, i, x)
                    carry = g.carry + ((b * p.heads + head) * 3 + part) * (p.conv - 1) * row * FLOAT
                    unconvolve(
                        p, b, t, n, reach, part * width + head * size, carry, tail, dtaps, g.z, g.recent_out, conv
                    )  # fmt: skip
            if fresh:
                forget(p, g, b)
            after = t
        if begin_step == 0:
            if g.recent:
                recent_gradients(p, g, b)
            if g.W_in:
                for head in range(p.heads):
                    out = g.W_in + (b * p.heads + head) * p.out * size * FLOAT
                    give_matrix(p, matrix(p, g.G, b, head), out, scratch + at.matrix * FLOAT)
