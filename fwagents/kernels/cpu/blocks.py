"""Matrix products built from register tiles, and reads of the fast memory, for compiled code.

Addresses are integers, distances between rows are counted in floats, and a row of R floats is padded with zeros to
``vectors * LANES``.
"""

from fwagents.kernels.cpu.problem import FLOAT, GROUP, PANEL
from fwagents.kernels.cpu.simd import (
    LANES,
    add_transposed_tile,
    called,
    inlined,
    load,
    prefetch,
    splat,
    stay_apart,
    store,
)
from fwagents.kernels.cpu.tiles import dots, tile_1x1, tile_1x2, tile_1x8, tile_4x1, tile_4x2

LINE = 16  # floats in a cache line
SCORES_AT_ONCE = 32 * 1024 // FLOAT  # keys that fit in the first-level cache, where the sum reads them again


@called
def add_product(
    m: int, vectors: int, k: int, a: int, a_row: int, a_k: int, b: int, b_k: int, b_panel: int, c: int, c_row: int
) -> None:
    """Compute C += A B for m rows, k columns of A and ``vectors`` vectors of columns of C.

    Entry (i, j) of A is at ``a + i a_row + j a_k``. B is in panels of PANEL vectors, ``b_panel`` apart, with rows
    ``b_k`` apart in each. For plain rows, ``b_panel = PANEL * LANES``.
    """
    stay_apart()
    for v in range(0, vectors * LANES, PANEL * LANES):
        right, out = b + v // (PANEL * LANES) * b_panel * FLOAT, c + v * FLOAT
        i = 0
        if v + LANES < vectors * LANES:
            while i + 4 <= m:
                tile_4x2(k, a + i * a_row * FLOAT, a_row, a_k, right, b_k, out + i * c_row * FLOAT, c_row)
                i += 4
            while i < m:
                tile_1x2(k, a + i * a_row * FLOAT, a_k, right, b_k, out + i * c_row * FLOAT)
                i += 1
        else:
            while i + 4 <= m:
                tile_4x1(k, a + i * a_row * FLOAT, a_row, a_k, right, b_k, out + i * c_row * FLOAT, c_row)
                i += 4
            while i < m:
                tile_1x1(k, a + i * a_row * FLOAT, a_k, right, b_k, out + i * c_row * FLOAT)
                i += 1


@called
def add_combination(vectors: int, k: int, a: int, a_k: int, b: int, b_k: int, c: int) -> None:
    """Compute c += sum over j < k of a[j] b[j], with coefficients ``a_k`` apart and rows ``b_k`` apart."""
    stay_apart()
    v = 0
    while v + 8 <= vectors:
        tile_1x8(k, a, a_k, b + v * LANES * FLOAT, b_k, c + v * LANES * FLOAT)
        v += 8
    while v + 2 <= vectors:
        tile_1x2(k, a, a_k, b + v * LANES * FLOAT, b_k, c + v * LANES * FLOAT)
        v += 2
    if v < vectors:
        tile_1x1(k, a, a_k, b + v * LANES * FLOAT, b_k, c + v * LANES * FLOAT)


@called
def attend(vectors: int, keys: int, n: int, weights: int, q: int, scores: int, out: int) -> None:
    """Compute out += sum over n keys of weight (key . q) key; the rows that round n up to GROUP must be zero.

    A block of keys is read for the scores, and then again from the cache for the sum.
    """
    stay_apart()
    row = vectors * LANES
    block = max(SCORES_AT_ONCE // row // LANES, 1) * LANES
    begin = 0
    while begin < n:
        some = min(block, n - begin)
        at = keys + begin * row * FLOAT
        for i in range(0, some, GROUP):
            dots(vectors, at + i * row * FLOAT, row, q, scores + i * FLOAT)
        for i in range(0, some, LANES):
            store(scores, i, load(scores, i) * load(weights, begin + i))
        add_combination(vectors, some, scores, 1, at, row, out)
        begin += some


@called
def attend_twice(vectors: int, keys: int, n: int, weights: int, q: int, scores: int, scores_row: int, out: int) -> None:
    """Run ``attend`` for q and for g, in the row before q; keep the weighted scores of both, sum only with g's."""
    stay_apart()
    row = vectors * LANES
    block = max(SCORES_AT_ONCE // row // LANES, 1) * LANES
    begin = 0
    while begin < n:
        some = min(block, n - begin)
        at = keys + begin * row * FLOAT
        to = scores + begin * FLOAT
        for i in range(0, some, GROUP):
            dots(vectors, at + i * row * FLOAT, row, q, to + i * FLOAT)
            dots(vectors, at + i * row * FLOAT, row, q - row * FLOAT, to + (scores_row + i) * FLOAT)
        for i in range(0, some, LANES):
            weight = load(weights, begin + i)
            store(to, i, load(to, i) * weight)
            store(to, scores_row + i, load(to, scores_row + i) * weight)
        add_combination(vectors, some, to + scores_row * FLOAT, 1, at, row, out)
        begin += some


@inlined
def add_matrix_vector(vectors: int, A: int, scale: float, x: int, scratch: int, out: int) -> None:
    """Compute out += scale A x, for A with ``vectors * LANES`` rows."""
    row = vectors * LANES
    for i in range(0, row, GROUP):
        dots(vectors, A + i * row * FLOAT, row, x, scratch + i * FLOAT)
    factor = splat(scale)
    for i in range(0, row, LANES):
        store(out, i, load(out, i) + factor * load(scratch, i))


@inlined
def add_scaled(vectors: int, scale: float, x: int, out: int) -> None:
    """Compute out += scale x for one row."""
    factor = splat(scale)
    for i in range(0, vectors * LANES, LANES):
        store(out, i, load(out, i) + factor * load(x, i))


@inlined
def set_scaled(vectors: int, scale: float, x: int, out: int) -> None:
    """Compute out = scale x for one row."""
    factor = splat(scale)
    for i in range(0, vectors * LANES, LANES):
        store(out, i, factor * load(x, i))


@called
def add_transposed(row: int, x: int, out: int) -> None:
    """Add the transpose of x to ``out``, square matrices of padded rows."""
    stay_apart()
    for r in range(0, row, LANES):
        for c in range(0, row, LANES):
            add_transposed_tile(x + (c * row + r) * FLOAT, row, out + (r * row + c) * FLOAT, row)


@inlined
def prefetch_floats(x: int, n: int) -> None:
    """Prefetch n floats. The next step's floats lie on another page, which the hardware does not prefetch."""
    for i in range(0, n + LINE - 1, LINE):
        prefetch(x + i * FLOAT)


@inlined
def clear(vectors: int, out: int) -> None:
    """Set one row to zero."""
    for i in range(0, vectors * LANES, LANES):
        store(out, i, splat(0.0))
