"""The derivatives of ``convolve`` and ``directions`` in ``fwagents.kernels.cpu.program_instruct``."""

from fwagents.kernels.cpu.problem import FLOAT
from fwagents.kernels.cpu.program_instruct import LEAST_LENGTH
from fwagents.kernels.cpu.program_problem import ProgramGradients, ProgramProblem
from fwagents.kernels.cpu.program_rows import ONE, ZERO, dot, projection, put, take
from fwagents.kernels.cpu.simd import (
    LANES,
    called,
    inlined,
    integer,
    load,
    scalar,
    splat,
    stay_apart,
    store,
    swap_pairs,
)


@inlined
def undirect(p: ProgramProblem, n: int, turn: int, x: int, lengths: int, dx: int) -> None:
    """Replace ``dx``, the gradient at the output x of ``directions``, by the gradient at its input."""
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
    """Compute the gradients at the projections of one head's q, k or v, and at the taps.

    Args:
        p: the problem.
        b: row of the batch.
        t: first step.
        n: steps.
        reach: number of earlier steps in the convolution at step t.
        column: first channel of the head.
        carry: gradients at the convolution's output of the next c - 1 steps; overwritten for the segment before.
        tail: 1 if the last projections may belong to this segment.
        dtaps: gradient at the taps, which is accumulated.
        dz: out, gradient at the projections.
        recent_out: gradient at the last projections, or 0.
        rows: gradients at the convolution's output, with space for c - 1 more rows.
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
    """Compute the gradients at the projections before the first step."""
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
