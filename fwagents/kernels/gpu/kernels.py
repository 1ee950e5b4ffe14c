# mypy: disable-error-code="no-untyped-call, no-untyped-def, misc, untyped-decorator"
"""The two Triton kernels behind ``fwagents.kernels.gpu.scan``: one chunk of a scan, forward and backward.

A program runs one row of the batch through the steps of a chunk. Vectors of R numbers are padded with zeros to ``P``.
``P``, like all tile sizes, is a power of two. The keys of the chunk are a tile ``[C, P]``. All sums are float32, and
none uses ``tl.dot``: every product is a matrix with one vector, which tensor cores do not speed up, and TF32 would lose
precision.

Importing this module imports Triton; with ``TRITON_INTERPRET=1`` the kernels then run on the CPU, slowly.
"""

import triton
import triton.language as tl

KEY_EPS = tl.constexpr(1e-8)
SIZES = ["begin", "steps", "batch"]  # compiled once for all values


@triton.jit
def relu(x):
    """Return ``max(x, 0)``, and NaN where x is NaN."""
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def rows_of(matrix, begin, R: tl.constexpr, P: tl.constexpr, K: tl.constexpr):
    """Load K rows of a matrix [R, R] from row ``begin``: a tile [K, P]."""
    k, n = begin + tl.arange(0, K), tl.arange(0, P)
    inside = (k[:, None] < R) & (n[None, :] < R)
    return tl.load(matrix + k[:, None] * R + n[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def product(v, matrix, rows, R: tl.constexpr, P: tl.constexpr, K: tl.constexpr):
    """Return the sum of a matrix's rows, weighted by ``v`` [P].

    Threads lie along the columns, so each adds up its own sums; along the rows, they would have to reduce together.
    With K = P, ``rows`` holds the whole matrix; otherwise the matrix is read K rows at a time.
    """
    if K == P:
        return tl.sum(rows * v[:, None], 0)
    parts = tl.reshape(v, (P // K, K))
    sums = tl.zeros((K, P), tl.float32)
    for j in range(P // K):
        part = tl.sum(tl.where(tl.arange(0, P // K)[:, None] == j, parts, 0.0), 0)
        sums += rows_of(matrix, j * K, R, P, K) * part[:, None]
    return tl.sum(sums, 0)


@triton.jit(do_not_specialize=SIZES)
def forward(
    drive,  # [steps, batch, R]
    weight,  # W transposed [R, R]
    h,  # before the chunk [batch, R], or None
    A,  # before the chunk, transposed [batch, R, R], or None
    opened,  # the step at which the current episode began, -1 if before the scan [steps, batch], or None
    gain,  # [NORMS, R], or None
    shift,
    y,  # out [steps, batch, R]
    inputs,  # out: state with which each inner step reads [steps, batch, S, R], or None
    normed,  # out: normalised values of each layer norm, of the shape of inputs
    scales,  # out: reciprocal standard deviations of the layer norms [steps, batch, S], or None
    taken,  # out: number of inner steps taken [steps, batch], or None
    begin,  # first step of the chunk
    steps,
    batch,
    log2_decay,
    fast_lr,
    norm_eps,
    tolerance,
    S: tl.constexpr,
    NORMS: tl.constexpr,
    SUSTAINED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
):
    """Run one row of the batch through the steps of a chunk."""
    b = tl.program_id(0).to(tl.int64)
    r, c = tl.arange(0, P), tl.arange(0, C)
    inside = r < R
    weights = rows_of(weight, 0, R, P, K)
    if A is not None:
        A += b * R * R
        memory = rows_of(A, 0, R, P, K)
    state = tl.zeros((P,), tl.float32)
    if h is not None:
        state = tl.load(h + b * R + r, mask=inside, other=0.0).to(tl.float32)
    keys = tl.zeros((C, P), tl.float32)
    ahead = tl.load(drive + b * R + r, mask=inside, other=0.0)
    for t in range(steps):
        at = t * batch + b
        z = ahead.to(tl.float32)
        more = inside & (t + 1 < steps)
        ahead = tl.load(drive + (at + batch) * R + r, mask=more, other=0.0)  # prefetched for the next step
        first = -1
        if opened is not None:
            first = tl.load(opened + at) - begin
            if first == t:
                state = tl.zeros((P,), tl.float32)
                keys = tl.zeros((C, P), tl.float32)
        z += product(state, weight, weights, R, P, K)
        age = tl.where(c < t, t - 1 - c, 0).to(tl.float32)
        rates = tl.where(c < t, fast_lr * tl.exp2(age * log2_decay), 0.0)
        fade = tl.exp2(t * log2_decay)
        s = relu(z)
        moving = 1
        for i in range(S):
            if moving == 1:
                if inputs is not None:
                    tl.store(inputs + (at * S + i) * R + r, s, mask=inside)
                scores = tl.sum(keys * s[None, :], 1) * rates
                total = tl.sum(keys * scores[:, None], 0)
                if A is not None:  # noqa: SIM102 -- this test is made at compile time, the next one at run time
                    if first < 0:
                        total += fade * product(s, A, memory, R, P, K)
                if SUSTAINED:
                    total += z
                else:
                    total += s
                if gain is not None:
                    total = tl.where(inside, total - tl.sum(total, 0) / R, 0.0)
                    scale = tl.rsqrt(tl.sum(total * total, 0) / R + norm_eps)
                    total *= scale
                    if inputs is not None:
                        tl.store(normed + (at * S + i) * R + r, total, mask=inside)
                        tl.store(scales + at * S + i, scale)
                    row = tl.minimum(i, NORMS - 1) * R
                    total *= tl.load(gain + row + r, mask=inside, other=0.0).to(tl.float32)
                    total += tl.load(shift + row + r, mask=inside, other=0.0).to(tl.float32)
                out = relu(total)
                if tolerance is not None:
                    moved = tl.sum((out - s) * (out - s), 0)
                    if tl.sqrt(moved) <= tolerance * tl.sqrt(tl.sum(s * s, 0)):
                        moving = 0
                    if inputs is not None:
                        tl.store(taken + at, i + 1.0)
                s = out
        state = s.to(y.dtype.element_ty).to(tl.float32)  # continue from the rounded value that is stored
        tl.store(y + at * R + r, state, mask=inside)
        key = state
        if NORMALIZED:
            key *= tl.rsqrt(tl.sum(state * state, 0) + KEY_EPS)
        keys = tl.where(c[:, None] == t, key[None, :], keys)


@triton.jit(do_not_specialize=SIZES)
def backward(
    dy,  # gradient at y, or None
    dh_out,  # gradient at h after the chunk [batch, R], or None
    dkeys,  # gradient at the keys through the A after the chunk [steps, batch, R], or None
    weight,
    A,
    opened,
    gain,
    y,
    inputs,
    normed,
    scales,
    taken,
    dz,  # out: gradient at the drive [steps, batch, R]
    dh,  # out: gradient at h before the chunk [batch, R]
    reads,  # out: gradient at the result of each read [steps, batch, S, R], or None
    dnorm,  # out: gradients at gain and shift from this row [batch, 2, NORMS, R], or None
    begin,
    steps,
    batch,
    log2_decay,
    fast_lr,
    S: tl.constexpr,
    NORMS: tl.constexpr,
    N: tl.constexpr,
    SUSTAINED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
):
    """Compute the derivative of ``forward``: one row, from the last to the first step of a chunk."""
    b = tl.program_id(0).to(tl.int64)
    r, c = tl.arange(0, P), tl.arange(0, C)
    inside = r < R
    weights = rows_of(weight, 0, R, P, K)
    if A is not None:
        A += b * R * R
        memory = rows_of(A, 0, R, P, K)
    places = (c[:, None] * batch + b) * R + r[None, :]
    among = (c[:, None] < steps) & inside[None, :]
    keys = tl.load(y + places, mask=among, other=0.0).to(tl.float32)
    if NORMALIZED:
        keys *= tl.rsqrt(tl.sum(keys * keys, 1) + KEY_EPS)[:, None]
    owed = tl.zeros((C, P), tl.float32)  # gradient at the keys, from all later reads
    if dkeys is not None:
        owed = tl.load(dkeys + places, mask=among, other=0.0)
    dstate = tl.zeros((P,), tl.float32)
    if dh_out is not None:
        dstate = tl.load(dh_out + b * R + r, mask=inside, other=0.0).to(tl.float32)
    if gain is not None:
        n = tl.arange(0, N)
        dgain = tl.zeros((N, P), tl.float32)
        dshift = tl.zeros((N, P), tl.float32)
    for back in range(steps):
        t = steps - 1 - back
        at = t * batch + b
        out = tl.load(y + at * R + r, mask=inside, other=0.0).to(tl.float32)
        if dy is not None:
            dstate += tl.load(dy + at * R + r, mask=inside, other=0.0).to(tl.float32)
        dkey = tl.sum(tl.where(c[:, None] == t, owed, 0.0), 0)
        if NORMALIZED:
            length = tl.rsqrt(tl.sum(out * out, 0) + KEY_EPS)
            dkey = length * (dkey - length * length * out * tl.sum(out * dkey, 0))
        ds = dstate + dkey
        first = -1
        if opened is not None:
            first = tl.load(opened + at) - begin
        alive = (c < t) & (c >= first)
        age = tl.where(alive, t - 1 - c, 0).to(tl.float32)
        rates = tl.where(alive, fast_lr * tl.exp2(age * log2_decay), 0.0)
        heard = tl.where(alive[:, None], keys, 0.0)
        fade = tl.exp2(t * log2_decay)
        dboundary = tl.zeros((P,), tl.float32)
        count = S
        if taken is not None:
            count = tl.load(taken + at).to(tl.int32)
        for undone in range(count):
            i = count - 1 - undone
            s = tl.load(inputs + (at * S + i) * R + r, mask=inside, other=0.0)
            g = tl.where(out <= 0.0, 0.0, ds)
            if gain is not None:
                x = tl.load(normed + (at * S + i) * R + r, mask=inside, other=0.0)
                scale = tl.load(scales + at * S + i)
                row = tl.minimum(i, NORMS - 1)
                dgain += tl.where(n[:, None] == row, (g * x)[None, :], 0.0)
                dshift += tl.where(n[:, None] == row, g[None, :], 0.0)
                g *= tl.load(gain + row * R + r, mask=inside, other=0.0).to(tl.float32)
                g = scale * (g - tl.sum(g, 0) / R - x * (tl.sum(g * x, 0) / R))
                g = tl.where(inside, g, 0.0)
            if reads is not None:
                tl.store(reads + (at * S + i) * R + r, g, mask=inside)
            by_input = tl.sum(heard * s[None, :], 1) * rates
            by_gradient = tl.sum(heard * g[None, :], 1) * rates
            gained = by_input[:, None] * g[None, :] + by_gradient[:, None] * s[None, :]
            owed = tl.where(alive[:, None], owed + gained, owed)
            ds = tl.sum(heard * by_gradient[:, None], 0)
            if A is not None:  # noqa: SIM102
                if first < 0:
                    ds += fade * product(g, A, memory, R, P, K)
            if SUSTAINED:
                dboundary += g
            else:
                ds += g
            out = s
        dboundary += tl.where(out <= 0.0, 0.0, ds)
        tl.store(dz + at * R + r, dboundary, mask=inside)
        dstate = product(dboundary, weight, weights, R, P, K)
        if first == t:
            dstate = tl.zeros((P,), tl.float32)
    tl.store(dh + b * R + r, dstate, mask=inside)
    if gain is not None:
        places = (b * 2 * NORMS + n[:, None]) * R + r[None, :]
        wanted = (n[:, None] < NORMS) & inside[None, :]
        tl.store(dnorm + places, dgain, mask=wanted)
        tl.store(dnorm + places + NORMS * R, dshift, mask=wanted)
