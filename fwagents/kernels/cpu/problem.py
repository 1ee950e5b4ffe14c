"""Arguments of a compiled kernel: sizes, options, addresses, and the place of each array in one buffer."""

from functools import cache
from typing import NamedTuple

FLOAT = 4  # bytes
GROUP = 8  # keys that are scored together; a history is followed by as many zero rows
PANEL = 2  # vectors side by side in a panel of packed weights, and in a tile
TILE = 4  # largest number of rows of the batch that share a read of the slow weights
BLOCK = 16  # steps of the backward pass whose contributions to older keys are summed as one product
FOLD_KEYS = 32  # keys of a fold that are summed as one product
STATE = 4  # integers that the backward pass keeps for a row

GO_ON, RESET, FOLD = 0, 1, 2  # what happens to a row's memory before a step; a bool ``start`` is marks too


def panel_floats(row: int) -> int:
    """Floats in a row of weights packed in panels."""
    width = PANEL * lanes()
    return -(-row // width) * width


@cache
def lanes() -> int:
    """Floats in a vector register of this machine, as the kernels see it."""
    import llvmlite.binding as llvm

    return 16 if llvm.get_host_cpu_features().get("avx512f", False) else 8


def padded(size: int) -> int:
    """``size`` rounded up to whole vectors."""
    return -(-size // lanes()) * lanes()


class Problem(NamedTuple):
    """One scan, for the compiled kernels; addresses are 0 where there is no such array.

    Rows marked "padded" have ``vectors * LANES`` floats, zero beyond R. n is T where the call keeps a trace for the
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
        tolerance: relative movement at which a row has settled, where ``taken`` is given.
        offset: keys in the history before the first step.
        longest: keys that the tables of decays reach back to.
        key_rows: rows from one history to the next.
        traced: 1 if a trace is kept for the backward pass, else 0.
        tile: rows of the batch that go together, at most TILE.
        slots: matrices A from one row of the batch to the next.
        fold_every: keys between folds of a history that is folded; a fold before step t has slot t // this - 1.
        width: D, if the inputs are x and C x + b is added here; 0 if they are the drive.
        drive: the drive [T, B, R], or x [T, B, D].
        weight_ih: C [R, D].
        bias: b [R].
        weight: W [R, R].
        gain: [norms, R].
        shift: [norms, R].
        packed: weight, gain and shift as the forward pass reads them, ``packed_floats``; 0 to pack them anew.
        powers: ``decay ** age``, age 0 to ``longest``.
        weights: ``fast_lr * decay ** age``, age ``longest - 1`` to 0, then zeros.
        marks: bytes [B, T], GO_ON, RESET or FOLD.
        h: state before the first step [B, R].
        A: A before the history's first key, padded [B].
        memory: integers [B, 2]: first key of the history since the last fold, and address of A or 0; set up by the
            forward pass if ``offset`` is 0.
        y: out [T, B, R].
        h_out: out [B, R].
        A_out: out [B, R, R], or 0.
        keys: padded [B, key_rows].
        inputs: what each inner step read with, padded [B, n, S].
        normed: what each layer norm normalised, padded [B, n, S].
        scales: reciprocal deviations of the layer norms [B, n, S].
        key_scales: reciprocal lengths of the hidden states [B, n].
        taken: inner steps that each row took, as floats [B, n]; 0 if they all take S.
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
        drive: out, at the drive [T, B, R] or at x [T, B, D]; 0 where that one is not wanted.
        h: out [B, R].
        A_in: out [B, R, R].
        weight: out, at W from a task's rows [tasks, R, R].
        weight_ih: out, at C from a task's rows [tasks, R, D].
        bias: out, at b from a task's rows [tasks, R].
        norm: out, at gain and shift from a task's rows [tasks, 2, norms, R].
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
    """Floats of W and C transposed in panels, of the padded gains and shifts, and of the bias."""
    row = p.vectors * lanes()
    return (p.size + p.width) * panel_floats(row) + (2 * p.norms + 1) * row


def forward_scratch(p: Problem) -> int:
    """Floats of working memory for a task of the forward pass, or of a fold."""
    row = p.vectors * lanes()
    attending = 2 * row + p.longest + 2 * lanes()
    return packed_floats(p) + 2 * TILE * row + attending + FOLD_KEYS * row + row * row


class Slot(NamedTuple):
    """Places, in floats, of what the backward pass keeps for one of the TILE rows it works on.

    Attributes:
        keys: gradient at the keys of the chunk, padded [longest].
        scores: weighted scalar products of keys with a read's q, then with its g [2 BLOCK S, scores_row].
        scores_row: floats in such a row.
        vectors: g, then q, of the reads of this block, padded [2 BLOCK S].
        reads: g of every read of the chunk, decayed to its beginning, padded [longest_read S].
        A: gradient at A after the chunk, padded.
        floats: all of it.
    """

    keys: int
    scores: int
    scores_row: int
    vectors: int
    reads: int
    A: int
    floats: int


def slot_layout(row: int, inner: int, longest: int, longest_read: int, matrices: bool) -> Slot:
    """The layout of ``Slot`` for rows of ``row`` floats."""
    scores_row = padded(longest) + lanes()
    scores = longest * row
    vectors = scores + 2 * BLOCK * inner * scores_row
    reads = vectors + 2 * BLOCK * inner * row
    A = reads + longest_read * inner * row
    return Slot(0, scores, scores_row, vectors, reads, A, A + (row * row if matrices else 0))


def backward_scratch(p: Problem, slot: Slot) -> int:
    """Floats of working memory for a task of the backward pass."""
    row = p.vectors * lanes()
    wide = padded(p.width)
    weights = p.size * (panel_floats(row) + panel_floats(wide)) + p.norms * row
    sums = row * (row + wide) + (2 * p.norms + 1) * row
    lines = (2 * BLOCK * TILE + TILE + 1) * row + (BLOCK + 1) * TILE * wide
    return 2 * TILE * STATE + weights + sums + lines + row * row + TILE * slot.floats
