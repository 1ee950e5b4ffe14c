"""The derivative of reads and writes over a segment, in attention form; the README has the equations."""

from fwagents.kernels.cpu.blocks import add_combination, add_product, set_scaled
from fwagents.kernels.cpu.problem import FLOAT, PANEL
from fwagents.kernels.cpu.program_instruct import gate
from fwagents.kernels.cpu.program_problem import Places, ProgramProblem
from fwagents.kernels.cpu.program_rows import ONE, ZERO, transpose
from fwagents.kernels.cpu.simd import LANES, called, inlined, load, scalar, set_scalar, splat, stay_apart, store

PLAIN = PANEL * LANES  # distance between panels in a matrix of plain rows
BLOCK = 4  # rows of a triangular product that are computed together


@called
def lower(n: int, vectors: int, a: int, a_row: int, b: int, out: int) -> None:
    """Compute out += A B for a lower triangular A [n, n]; ``out`` and B have padded rows."""
    stay_apart()
    row = vectors * LANES
    for i in range(0, n, BLOCK):
        some, keys = min(BLOCK, n - i), min(i + BLOCK, n)
        add_product(some, vectors, keys, a + i * a_row * FLOAT, a_row, 1, b, row, PLAIN, out + i * row * FLOAT, row)


@called
def upper(n: int, vectors: int, a: int, a_row: int, b: int, out: int) -> None:
    """Compute out += A^T B for a lower triangular A [n, n]."""
    stay_apart()
    row = vectors * LANES
    for i in range(0, n, BLOCK):
        some, at = min(BLOCK, n - i), i * row * FLOAT
        add_product(
            some, vectors, n - i, a + (i * a_row + i) * FLOAT, 1, a_row, b + at, row, PLAIN, out + at, row
        )  # fmt: skip


@called
def scores(n: int, chunk: int, size: int, row: int, left: int, x: int, y: int, diagonal: bool, out: int) -> None:
    """Compute ``out[t, s] = left[t, s] (x(t) . y(s))`` [n, chunk]: zero above the diagonal, on it if not ``diagonal``.

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
    """Compute the decay matrix L [n, chunk], zero above the diagonal."""
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
def scale_rows(p: ProgramProblem, n: int, x: int, factors: int, step: int, out: int) -> None:
    """Compute ``out(t) = factors[t] x(t)``, with factors ``step`` floats apart."""
    row = p.vectors * LANES
    for t in range(n):
        set_scaled(p.vectors, scalar(factors, t * step), x + t * row * FLOAT, out + t * row * FLOAT)


@called
def turn_back(
    p: ProgramProblem, at: Places, b: int, t: int, n: int, head: int, G: int, kept: int, scratch: int
) -> None:
    """Compute the gradients at queries, keys and u over a segment; ``kept`` is the W before the segment, or 0."""
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
    # L[t], the decay from before the segment to each step.
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
    # The gradients that pass through G.
    add_product(n, vectors, p.size, k, row, 1, G, row, PLAIN, du, row)
    scale_rows(p, n, du, last, 1, du)
    transpose(row, row, G, other, row)
    scale_rows(p, n, u, last, 1, scaled_u)
    add_product(n, vectors, p.out, scaled_u, row, 1, other, row, PLAIN, dk, row)
    # The gradients within the segment.
    across = (n + LANES - 1) // LANES * LANES
    columns_k, columns_u = scaled_dr, scaled_u  # reuses memory: scaled_dr is set later, scaled_u is no longer needed
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
