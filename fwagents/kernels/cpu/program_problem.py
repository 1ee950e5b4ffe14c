"""The arguments of the compiled scan of the fast-weight programmers, and where its arrays lie."""

from typing import NamedTuple

from fwagents.kernels.cpu.problem import lanes, padded

MEMORY = 3  # integers that are kept for a row of the batch: projections in reach, steps counted, whether from a start
TURNS = 256  # entries of a table of turns; there is one of single steps, of 256 and of 65,536


class ProgramProblem(NamedTuple):
    """One scan, for the compiled kernels; addresses are 0 where there is no such array.

    A matrix of a head is kept transposed, ``row`` rows of ``row = vectors * LANES`` floats, zero beyond d and E. A
    stretch of at most ``chunk`` steps that holds no start and crosses no multiple of ``chunk`` is a segment.

    Attributes:
        steps: T.
        batch: B.
        heads: h.
        size: d, numbers in a key and a query.
        out: E, numbers in a value: d, or d + 1 where the last sums up the keys.
        vectors: vectors in a padded row of d or E floats.
        conv: c, steps that the convolution reaches over.
        width: floats in a row of ``z``.
        chunk: steps between two matrices that are kept.
        slots: matrices of a head that are kept for a row of the batch.
        gates: gates a head, beta and alpha; 0, 1 or 2.
        delta: 1 for the delta rule, 0 for a sum.
        silu: 1 if silu follows the convolution.
        first: the first head that is turned.
        every: heads from one that is turned to the next; 0 if none is.
        held: 1 if ``W`` and ``memory`` are those of the call before.
        traced: 1 if the backward pass follows, else 0.
        norm_eps: added to the variance of the layer norm.
        z: projections [T, B, width]: q, k, v (h d floats each), betas, alphas.
        taps: [c, 3 h d].
        recent: projections before the first step [B, c - 1, 3 h d].
        W_in: [B, h, E, d].
        t_in: steps of the episode so far [B].
        start: bytes [T, B].
        turns: cosines and signed sines of multiples of a step's angles, padded [3, TURNS, 2].
        turned: those of ``t_in`` steps, padded [B, 2].
        gain: of the layer norm [h d]; 0 for no layer norm.
        shift: [h d].
        W: [B, h] matrices.
        memory: integers [B, MEMORY].
        reads: out [T, B, h d].
        normed: out, the reads behind their layer norm [T, B, h d].
        errors: out, v - alpha W k [T, B, h d].
        sums: out, what reads are divided by [T, B, h].
        kept: out, W before every segment that begins at a multiple of ``chunk`` [B, slots, h].
        recent_out: out [B, c - 1, 3 h d].
        W_out: out [B, h, E, d].
        t_out: out [B].
    """

    steps: int
    batch: int
    heads: int
    size: int
    out: int
    vectors: int
    conv: int
    width: int
    chunk: int
    slots: int
    gates: int
    delta: int
    silu: int
    first: int
    every: int
    held: int
    traced: int
    norm_eps: float
    z: int = 0
    taps: int = 0
    recent: int = 0
    W_in: int = 0
    t_in: int = 0
    start: int = 0
    turns: int = 0
    turned: int = 0
    gain: int = 0
    shift: int = 0
    W: int = 0
    memory: int = 0
    reads: int = 0
    normed: int = 0
    errors: int = 0
    sums: int = 0
    kept: int = 0
    recent_out: int = 0
    W_out: int = 0
    t_out: int = 0


class ProgramGradients(NamedTuple):
    """Addresses for the backward pass; 0 where a gradient is absent or not wanted.

    Attributes:
        y: gradient at the reads, or at the reads behind their layer norm [T, B, h d].
        recent_out: gradient at the last projections [B, c - 1, 3 h d].
        W_out: gradient at the last W [B, h, E, d].
        G: the gradient at W on its way back [B, h] matrices.
        scale: its product with W, entry by entry, summed up [B, h]; at first that of the last ones.
        carry: gradients behind the convolution of the c - 1 steps to come, padded [B, h, 3, c - 1].
        tail: integers [B], 1 until a start is met.
        z: out, of the same rows as ``z``.
        taps: out, from a task's rows [tasks, c, 3 h d].
        norm: out, at gain and shift from a task's rows [tasks, 2, h d].
        recent: out [B, c - 1, 3 h d].
        W_in: out [B, h, E, d].
    """

    y: int
    recent_out: int
    W_out: int
    G: int
    scale: int
    carry: int
    tail: int
    z: int
    taps: int
    norm: int
    recent: int
    W_in: int


def chunk_of(row: int) -> int:
    """Steps between two matrices that are kept, for matrices of ``row`` rows."""
    return max(16, min(64, row // 32 * 16))


class Places(NamedTuple):
    """Places, in floats, of the arrays that a task works with; ``rows`` are padded rows, one a step of a segment.

    Attributes:
        q: rows.
        k: rows, right behind q.
        v: rows.
        gates: sigmoid of all gates, padded [chunk].
        shut: one less the gates, padded [chunk].
        turn: cosines, then signed sines [chunk, 2] rows.
        lengths: of q and k before they were normalised [2, chunk].
        lines: four rows for any use.
        slopes: derivatives of what follows the convolution [3] rows.
        left: what is left at each step of what was written at another [chunk, chunk].
        reads: gradients at the reads [chunk, padded h d].
        u: rows; what is written.
        errors: rows.
        dr: rows; gradients at the reads.
        de: rows; less the gradients at the errors, right behind dr.
        du: rows.
        dq: rows.
        dk: rows, right behind dq.
        scaled: three times rows: dr and de scaled to the segment's beginning, u to its end.
        qk: scores of queries and keys, then of keys and keys, of gradients at reads and what is written, of gradients
            at errors and what is written [4, chunk, chunk].
        matrix: a matrix the other way round.
        conv: gradients behind the convolution [chunk + c - 1] rows.
        floats: all of it.
    """

    q: int
    k: int
    v: int
    gates: int
    shut: int
    turn: int
    lengths: int
    lines: int
    slopes: int
    left: int
    reads: int
    u: int
    errors: int
    dr: int
    de: int
    du: int
    dq: int
    dk: int
    scaled: int
    qk: int
    matrix: int
    conv: int
    floats: int


def places(p: ProgramProblem, backward: bool) -> Places:
    """The layout of ``Places``."""
    row, chunk = p.vectors * lanes(), p.chunk
    rows, gates = chunk * row, chunk * padded(p.gates * p.heads)
    forward = [rows, rows, rows, gates, gates, 2 * rows, 2 * chunk, 4 * row]
    square = chunk * chunk
    further = [3 * rows, square, chunk * padded(p.heads * p.size), *[rows] * 7, 3 * rows, 4 * square, row * row]
    sizes = forward + ([*further, (chunk + p.conv - 1) * row] if backward else [*[0] * 12, row * row, 0])
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return Places(*ends)
