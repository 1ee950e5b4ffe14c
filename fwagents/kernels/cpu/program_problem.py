"""The arguments of the compiled scan of the fast-weight programmers, and the positions of its arrays."""

from typing import NamedTuple

from fwagents.kernels.cpu.problem import lanes, padded

MEMORY = 3  # integers kept for a batch row: projections in reach, steps counted, and 1 if counted from an episode start
TURNS = 256  # entries of each table of rotations; the tables are for multiples of 1, 256 and 65,536 steps


class ProgramProblem(NamedTuple):
    """Arguments of one scan for the compiled kernels; the address of an absent array is 0.

    The matrix of a head is stored transposed: ``row`` rows of ``row = vectors * LANES`` floats, zero beyond d and E. A
    segment is a run of steps that contains no start after its first step and crosses no multiple of ``chunk``.

    Attributes:
        steps: T.
        batch: B.
        heads: h.
        size: d, numbers in a key and a query.
        out: E, numbers in a value: d, or d + 1 if the last one sums the keys.
        vectors: vectors in a padded row of d or E floats.
        conv: c, width of the convolution in steps.
        width: floats in a row of ``z``.
        chunk: steps between two matrices that are kept.
        slots: matrices of a head that are kept for a row of the batch.
        gates: gates a head, beta and alpha; 0, 1 or 2.
        delta: 1 for the delta rule, 0 for a sum.
        silu: 1 if silu follows the convolution.
        first: first head that is rotated.
        every: distance from one rotated head to the next; 0 if no head is rotated.
        held: 1 if ``W`` and ``memory`` continue from the call before.
        traced: 1 if a trace is kept for the backward pass, else 0.
        norm_eps: added to the variance of the layer norm.
        z: projections [T, B, width]: q, k, v (h d floats each), betas, alphas.
        taps: [c, 3 h d].
        recent: projections before the first step [B, c - 1, 3 h d].
        W_in: [B, h, E, d].
        t_in: steps of the episode so far [B].
        start: bytes [T, B].
        turns: cosines and signed sines of multiples of a step's angles, padded [3, TURNS, 2].
        turned: cosines and signed sines of ``t_in`` steps, padded [B, 2].
        gain: gain of the layer norm [h d]; 0 for no layer norm.
        shift: bias of the layer norm [h d].
        W: [B, h] matrices.
        memory: integers [B, MEMORY].
        reads: out [T, B, h d].
        normed: out, the normalised reads [T, B, h d].
        errors: out, v - alpha W k [T, B, h d].
        sums: out, divisors of the reads [T, B, h].
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
        y: gradient at the reads, or at the normalised reads [T, B, h d].
        recent_out: gradient at the last projections [B, c - 1, 3 h d].
        W_out: gradient at the last W [B, h, E, d].
        G: gradient at W at the current step, [B, h] matrices.
        scale: sum of the elementwise product of G and W [B, h]; at first, of ``W_out`` and the last W.
        carry: gradients at the convolution's output of the next c - 1 steps, padded [B, h, 3, c - 1].
        tail: integers [B], 1 until the backward pass reaches a start.
        z: out, gradient at the projections, in the layout of ``ProgramProblem.z``.
        taps: out, gradient at the taps from a task's rows [tasks, c, 3 h d].
        norm: out, gradient at gain and shift from a task's rows [tasks, 2, h d].
        recent: out, gradient at the projections before the first step [B, c - 1, 3 h d].
        W_in: out, gradient at the initial W [B, h, E, d].
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
    """Return the steps between two kept matrices, for matrices of ``row`` rows."""
    return max(16, min(64, row // 32 * 16))


class Places(NamedTuple):
    """Positions, in floats, of a task's arrays; ``rows`` are padded rows, one for each step of a segment.

    Attributes:
        q: rows.
        k: rows, directly after q.
        v: rows.
        gates: sigmoid of all gates, padded [chunk].
        shut: 1 minus the gates, padded [chunk].
        turn: cosines, then signed sines [chunk, 2] rows.
        lengths: norms of q and k before normalisation [2, chunk].
        lines: four rows for any use.
        slopes: derivatives of silu or the feature map after the convolution [3] rows.
        left: decay matrix L, the factor left at one step of a write at another [chunk, chunk].
        reads: gradients at the reads [chunk, padded h d].
        u: rows; the written values u.
        errors: rows.
        dr: rows; gradients at the reads.
        de: rows; negative gradients at the errors, directly after dr.
        du: rows.
        dq: rows.
        dk: rows, directly after dq.
        scaled: three times rows: dr and de scaled to the segment's beginning, u to its end.
        qk: scores of q and k, of k and k, of dr and u, and of de and u [4, chunk, chunk].
        matrix: a transposed matrix.
        conv: gradients at the convolution's output [chunk + c - 1] rows.
        floats: floats in all arrays.
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
    """Compute the layout of ``Places``."""
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
