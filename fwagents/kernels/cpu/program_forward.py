"""The compiled forward pass of the fast-weight programmers: a row of the batch at a time, a segment at a time.

``fwagents.kernels.cpu.program_problem.ProgramProblem`` defines sizes, addresses and a segment.
"""

from typing import Any

import numpy as np

from fwagents.kernels.cpu.blocks import clear, prefetch_floats
from fwagents.kernels.cpu.problem import FLOAT
from fwagents.kernels.cpu.program_instruct import gate, instruct, prepare_segment
from fwagents.kernels.cpu.program_problem import MEMORY, Places, ProgramProblem
from fwagents.kernels.cpu.program_rows import (
    ONE,
    ZERO,
    give_matrix,
    matrix,
    mean_and_scale,
    opens,
    projection,
    put,
    take,
    take_matrix,
)
from fwagents.kernels.cpu.simd import (
    LANES,
    called,
    inlined,
    integer,
    load,
    scalar,
    set_integer,
    set_scalar,
    splat,
    stay_apart,
    store,
    total,
)

LEAST_SUM: Any = np.float32(1e-6)  # keeps the divisor of a read above zero


@inlined
def segment_end(p: ProgramProblem, b: int, t: int, last: int) -> int:
    """Return the step after the segment that begins at step t, at most ``last``."""
    end = min(t - t % p.chunk + p.chunk, last)
    n = t + 1
    while n < end and not opens(p, b, n):
        n += 1
    return n


@inlined
def read(size: int, row: int, W: int, k: int, q: int, kept: int, out: int) -> None:
    """Compute kept = W k and out = W q."""
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
    """Compute W = alpha W + u k^T."""
    scale = splat(alpha)
    for v in range(0, row, LANES):
        x = load(u, v)
        for j in range(size):
            store(W, j * row + v, scale * load(W, j * row + v) + splat(scalar(k, j)) * x)


@inlined
def write_and_read(
    size: int, row: int, W: int, alpha: Any, u: int, k: int, next_k: int, next_q: int, kept: int, out: int
) -> None:
    """Run ``write``, then ``read`` with the next step's key and query, in one pass over W."""
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
    """Run the recurrence of one head over a segment."""
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
    """Apply the layer norm, over all heads, to the reads of n steps."""
    size = p.heads * p.size
    for i in range(n):
        place = ((t + i) * p.batch + b) * size * FLOAT
        x, out = p.reads + place, p.normed + place
        center, factor = mean_and_scale(x, size, p.norm_eps)
        mean, scale = splat(center), splat(factor)
        for v in range(0, size, LANES):
            d = (take(x, v, size - v) - mean) * scale
            d = d * take(p.gain, v, size - v) + take(p.shift, v, size - v)
            put(out, v, d, size)


@inlined
def begin_row(p: ProgramProblem, b: int, scratch: int) -> None:
    """Set up the state before the first step: copy W and reset the counters."""
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
    """Write the state after the last step."""
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
    """Run some steps of rows ``begin`` to ``end`` of the batch, after the earlier steps have been run.

    Args:
        p: the problem, which lists inputs and outputs.
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
