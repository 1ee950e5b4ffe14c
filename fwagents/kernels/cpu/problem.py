"""Arguments of a compiled kernel: sizes, options, addresses, and the position of each array in one buffer."""

from functools import cache
from typing import NamedTuple

FLOAT = 4  # bytes
GROUP = 8  # keys that are scored together; GROUP zero rows follow a history
PANEL = 2  # vectors side by side in a panel of packed weights, and in a tile
TILE = 4  # largest number of rows of the batch that share a read of the slow weights
BLOCK = 16  # steps of the backward pass whose contributions to older keys are summed in one product
FOLD_KEYS = 32  # keys of a fold that are summed in one product
STATE = 4  # integers that the backward pass keeps for a row

GO_ON, RESET, FOLD = 0, 1, 2  # action on a row's memory before a step; the bytes of a bool ``start`` are valid marks


def panel_floats(row: int) -> int:
    """Return the floats in a row of weights packed in panels."""
    width = PANEL * lanes()
    return -(-row // width) * width


@cache
def lanes() -> int:
    """Return the number of floats in a vector of the kernels on this machine."""
    import llvmlite.binding as llvm

    return 16 if llvm.get_host_cpu_features().get("avx512f", False) else 8


def padded(size: int) -> int:
    """Return ``size`` rounded up to whole vectors."""
    return -(-size // lanes()) * lanes()


class Problem(NamedTuple):
    """Arguments of one scan for the compiled kernels; the address of an absent array is 0.

    Rows marked "padded" have ``vectors * LANES`` floats, zero beyond R. n is T if the call keeps a trace for the
    backward pass, else 1.

    Attributes:
        steps: T.
        batch: B.
        size: R.
        vectors: vectors in a padded row.
        inner: S.
        sustained: whether ``W h + C x`` is added at every inner step.
        normalized: whether keys are normalised.
        norms: layer-norm rows, 0 (none), 1 or S.
        norm_eps: added to the variance.
        tolerance: relative change below which a row has settled; used if ``taken`` is given.
        offset: keys in the history before the first step.
        longest: largest age in the tables of decays.
        key_rows: rows from one history to the next.
        traced: 1 if a trace is kept for the backward pass, else 0.
        tile: rows of the batch that are processed together, at most TILE.
        slots: matrices A from one row of the batch to the next.
        fold_every: keys between folds; the fold before step t writes slot t // fold_every - 1.
        width: D if ``drive`` is x and the kernel adds C x + b; 0 if ``drive`` already holds C x + b.
        drive: the drive [T, B, R], or x [T, B, D].
        weight_ih: C [R, D].
        bias: b [R].
        weight: W [R, R].
        gain: [norms, R].
        shift: [norms, R].
        packed: weight, gain and shift as the forward pass reads them, ``packed_floats``; 0 to pack them in the call.
        powers: ``decay ** age``, age 0 to ``longest``.
        weights: ``fast_lr * decay ** age``, age ``longest - 1`` to 0, then zeros.
        marks: bytes [B, T], GO_ON, RESET or FOLD.
        h: state before the first step [B, R].
        A: A before the history's first key, padded [B].
        memory: integers [B, 2]: the first key since the last fold, and the address of A or 0; the forward pass sets
            them if ``offset`` is 0.
        y: out [T, B, R].
        h_out: out [B, R].
        A_out: out [B, R, R], or 0.
        keys: padded [B, key_rows].
        inputs: the state with which each inner step reads, padded [B, n, S].
        normed: normalised values of each layer norm, padded [B, n, S].
        scales: reciprocal standard deviations of the layer norms [B, n, S].
        key_scales: reciprocal norms of the hidden states [B, n].
        taken: number of inner steps that each row took, as floats [B, n]; 0 if all rows take S.
        folded: A after each fold, padded [B, slots].
    """

    steps: int
    batch: int
    size: int
    vectors: int
    inner: int
    sustained: int
    normalized: int
    norms: int
    norm_eps: float
    tolerance: float
    offset: int
    longest: int
    key_rows: int
    traced: int
    tile: int
    slots: int
    fold_every: int
    width: int = 0
    drive: int = 0
    weight_ih: int = 0
    bias: int = 0
    weight: int = 0
    gain: int = 0
    shift: int = 0
    packed: int = 0
    powers: int = 0
    weights: int = 0
    marks: int = 0
    h: int = 0
    A: int = 0
    memory: int = 0
    y: int = 0
    h_out: int = 0
    A_out: int = 0
    keys: int = 0
    inputs: int = 0
    normed: int = 0
    scales: int = 0
    key_scales: int = 0
    taken: int = 0
    folded: int = 0


class Gradients(NamedTuple):
    """Addresses for the backward pass; 0 where a gradient is absent or not wanted.

    Attributes:
        y: gradient at y [T, B, R].
        h_out: gradient at the final h [B, R].
        A_out: gradient at the final A [B, R, R].
        drive: out, gradient at the drive [T, B, R] or at x [T, B, D].
        h: out, gradient at the initial h [B, R].
        A_in: out, gradient at the initial A [B, R, R].
        weight: out, gradient at W from a task's rows [tasks, R, R].
        weight_ih: out, gradient at C from a task's rows [tasks, R, D].
        bias: out, gradient at b from a task's rows [tasks, R].
        norm: out, gradient at gain and shift from a task's rows [tasks, 2, norms, R].
    """

    y: int
    h_out: int
    A_out: int
    drive: int
    h: int
    A_in: int
    weight: int
    weight_ih: int
    bias: int
    norm: int


def packed_floats(p: Problem) -> int:
    """Return the floats of W and C transposed in panels, of the padded gains and shifts, and of the bias."""
    row = p.vectors * lanes()
    return (p.size + p.width) * panel_floats(row) + (2 * p.norms + 1) * row


def forward_scratch(p: Problem) -> int:
    """Return the floats of scratch memory for a task of the forward pass, or of a fold."""
    row = p.vectors * lanes()
    attending = 2 * row + p.longest + 2 * lanes()
    return packed_floats(p) + 2 * TILE * row + attending + FOLD_KEYS * row + row * row


class Slot(NamedTuple):
    """Positions, in floats, of the arrays that the backward pass keeps for each of the TILE rows it processes.

    Attributes:
        keys: gradient at the keys of the chunk, padded [longest].
        scores: weighted dot products of keys with the q, then the g, of a read [2 BLOCK S, scores_row].
        scores_row: floats in a row of ``scores``.
        vectors: g, then q, of the reads of this block, padded [2 BLOCK S].
        reads: g of every read of the chunk, decayed to the chunk's beginning, padded [longest_read S].
        A: gradient at the A after the chunk, padded.
        floats: floats in all arrays.
    """

    keys: int
    scores: int
    scores_row: int
    vectors: int
    reads: int
    A: int
    floats: int


def slot_layout(row: int, inner: int, longest: int, longest_read: int, matrices: bool) -> Slot:
    """Compute the layout of ``Slot`` for rows of ``row`` floats."""
    scores_row = padded(longest) + lanes()
    scores = longest * row
    vectors = scores + 2 * BLOCK * inner * scores_row
    reads = vectors + 2 * BLOCK * inner * row
    A = reads + longest_read * inner * row
    return Slot(0, scores, scores_row, vectors, reads, A, A + (row * row if matrices else 0))


def backward_scratch(p: Problem, slot: Slot) -> int:
    """Return the floats of scratch memory for a task of the backward pass."""
    row = p.vectors * lanes()
    wide = padded(p.width)
    weights = p.size * (panel_floats(row) + panel_floats(wide)) + p.norms * row
    sums = row * (row + wide) + (2 * p.norms + 1) * row
    lines = (2 * BLOCK * TILE + TILE + 1) * row + (BLOCK + 1) * TILE * wide
    return 2 * TILE * STATE + weights + sums + lines + row * row + TILE * slot.floats
