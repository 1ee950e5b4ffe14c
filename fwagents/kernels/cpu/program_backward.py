"""The compiled backward pass of the fast-weight programmers, a segment at a time from the last to the first."""

import numpy as np

from fwagents.kernels.cpu.blocks import clear, prefetch_floats
from fwagents.kernels.cpu.problem import FLOAT
from fwagents.kernels.cpu.program_attention import turn_back, what_is_left
from fwagents.kernels.cpu.program_instruct import gate, instruct, is_turned, prepare_segment
from fwagents.kernels.cpu.program_instruct_backward import recent_gradients, unconvolve, undirect
from fwagents.kernels.cpu.program_problem import MEMORY, Places, ProgramGradients, ProgramProblem
from fwagents.kernels.cpu.program_rows import (
    ONE,
    ZERO,
    dot,
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
    first,
    inlined,
    integer,
    load,
    scalar,
    set_integer,
    set_scalar,
    splat,
    store,
    total,
)


@inlined
def segment_begin(p: ProgramProblem, b: int, t: int, least: int) -> int:
    """Return the first step, at least ``least``, of the segment that contains step t."""
    begin = max(t - t % p.chunk, least)
    n = t
    while n > begin and not opens(p, b, n):
        n -= 1
    return n


@inlined
def gradients_at_reads(p: ProgramProblem, at: Places, b: int, t: int, n: int, dy: int, norm: int, scratch: int) -> None:
    """Compute the gradients at all heads' reads, through a layer norm if any, whose gradients are added to ``norm``."""
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
        center, factor = mean_and_scale(x, size, p.norm_eps)
        mean, scale = splat(center), splat(factor)
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
    """Load the forward pass's results for one head, and the gradients at its reads, into padded rows."""
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
    for i in range(n, (n + LANES - 1) // LANES * LANES):  # the scores are computed for whole vectors of rows
        clear(p.vectors, scratch + (at.u + i * row) * FLOAT)
        clear(p.vectors, scratch + (at.k + i * row) * FLOAT)


@inlined
def gate_gradients(
    p: ProgramProblem, at: Places, b: int, t: int, n: int, head: int, g: ProgramGradients, scratch: int
) -> None:
    """Compute the gradients at beta and alpha before their sigmoids.

    The gradient at alpha needs neither W(t) nor its gradient, only the sum of their elementwise product. Each step
    updates this sum and passes it on to the step before; the README has the equation.
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
def end_gradients(p: ProgramProblem, g: ProgramGradients, b: int, scratch: int) -> None:
    """Initialise the gradients of row b after the last step."""
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
    """Clear the carried gradients of row b, since no gradient passes an episode start."""
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
    """Return the last step up to t at which an episode begins; -1 if there is none."""
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
    """Compute the derivative of ``fwagents.kernels.cpu.program_forward.forward``, after the later steps have been run.

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
