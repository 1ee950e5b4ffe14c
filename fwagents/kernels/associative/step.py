"""The compiled step of the associative LSTM and its derivative, without the matrix products between steps.

Complex numbers are stored as two blocks, one of real and one of imaginary parts. A block is ``plane = n batch`` floats:
n units, each with the whole batch, a multiple of LANES. The blocks of the pre-activations are, in order, f, then i and
o (one for each head), then w, r and u (two for each head). A scale is the factor that ``bound`` applies, at most 1.
"""

import numpy as np

from fwagents.kernels.cpu.problem import FLOAT
from fwagents.kernels.cpu.simd import LANES, inlined, integer, inverse_modulus, load, splat, store, where_below_one


@inlined
def block(x: int, plane: int, which: int) -> int:
    """Return the address of a block of x."""
    return x + which * plane * FLOAT


def forward(
    n: int, heads: int, copies: int, batch: int, order: int, pre: int, c: int, c_out: int, h: int, trace: int
) -> None:
    """Run one step.

    Args:
        n: complex units.
        heads: K.
        copies: S.
        batch: B, a multiple of LANES.
        order: permutations, integers [S, n].
        pre: pre-activations [R, B], with the sigmoid already applied to the gates; w, r and u are bounded in place.
        c: memory before the step [S, 2 n, B].
        c_out: memory after the step; may be ``c``.
        h: out [2 n, B].
        trace: out [6 K n, B]: the scales of w, r and u, then each head's bounded read and its scale.
    """
    plane = n * batch
    w, r, u = 1 + 2 * heads, 1 + 4 * heads, 1 + 6 * heads
    mean = splat(np.float32(1.0 / copies))
    for v in range(3 * heads):
        re, im, scales = block(pre, plane, w + 2 * v), block(pre, plane, w + 2 * v + 1), block(trace, plane, v)
        for at in range(0, plane, LANES):
            x, y = load(re, at), load(im, at)
            scale = inverse_modulus(x, y)
            store(re, at, scale * x)
            store(im, at, scale * y)
            store(scales, at, scale)
    for unit in range(n):
        for at in range(unit * batch, (unit + 1) * batch, LANES):
            f = load(pre, at)
            for s in range(copies):
                key = integer(order, s * n + unit) * batch + at - unit * batch
                x, y = f * load(block(c, plane, 2 * s), at), f * load(block(c, plane, 2 * s + 1), at)
                for k in range(heads):
                    i = load(block(pre, plane, 1 + k), at)
                    ux, uy = i * load(block(pre, plane, u + 2 * k), at), i * load(block(pre, plane, u + 2 * k + 1), at)
                    wx, wy = load(block(pre, plane, w + 2 * k), key), load(block(pre, plane, w + 2 * k + 1), key)
                    x, y = x + wx * ux - wy * uy, y + wx * uy + wy * ux
                store(block(c_out, plane, 2 * s), at, x)
                store(block(c_out, plane, 2 * s + 1), at, y)
            hx, hy = splat(np.float32(0.0)), splat(np.float32(0.0))
            for k in range(heads):
                x, y = splat(np.float32(0.0)), splat(np.float32(0.0))
                for s in range(copies):
                    key = integer(order, s * n + unit) * batch + at - unit * batch
                    cx, cy = load(block(c_out, plane, 2 * s), at), load(block(c_out, plane, 2 * s + 1), at)
                    rx, ry = load(block(pre, plane, r + 2 * k), key), load(block(pre, plane, r + 2 * k + 1), key)
                    x, y = x + rx * cx - ry * cy, y + rx * cy + ry * cx
                x, y = mean * x, mean * y
                scale = inverse_modulus(x, y)
                x, y = scale * x, scale * y
                read = block(trace, plane, 3 * (heads + k))
                store(read, at, x)
                store(block(read, plane, 1), at, y)
                store(block(read, plane, 2), at, scale)
                o = load(block(pre, plane, 1 + heads + k), at)
                hx, hy = hx + o * x, hy + o * y
            store(h, at, hx)
            store(block(h, plane, 1), at, hy)


def backward(
    n: int, heads: int, copies: int, batch: int, order: int, pre: int, c: int, c_out: int, trace: int, dh: int, dc: int,
    d: int,
) -> None:  # fmt: skip
    """Compute the step's derivative.

    The gradient at a complex z is the gradient at its real part plus i times the gradient at its imaginary part.

    Args:
        n, heads, copies, batch, order: see ``forward``.
        pre, c, c_out, trace: as ``forward`` left them.
        dh: gradient at h.
        dc: gradient at ``c_out``; overwritten with the gradient at ``c``.
        d: out, gradient at the pre-activations [R, B].
    """
    plane = n * batch
    w, r, u = 1 + 2 * heads, 1 + 4 * heads, 1 + 6 * heads
    one, mean = splat(np.float32(1.0)), splat(np.float32(1.0 / copies))
    for at in range(w * plane, u * plane, LANES):
        store(d, at, splat(np.float32(0.0)))
    for unit in range(n):
        for at in range(unit * batch, (unit + 1) * batch, LANES):
            hx, hy = load(dh, at), load(block(dh, plane, 1), at)
            for k in range(heads):  # gradients at the unbounded reads, in the place of the later gradient at u
                read = block(trace, plane, 3 * (heads + k))
                x, y, scale = load(read, at), load(block(read, plane, 1), at), load(block(read, plane, 2), at)
                o = load(block(pre, plane, 1 + heads + k), at)
                along = x * hx + y * hy
                store(block(d, plane, 1 + heads + k), at, along * o * (one - o))
                radial, scale = where_below_one(scale, along), mean * o * scale
                store(block(d, plane, u + 2 * k), at, scale * (hx - radial * x))
                store(block(d, plane, u + 2 * k + 1), at, scale * (hy - radial * y))
            for s in range(copies):
                key = integer(order, s * n + unit) * batch + at - unit * batch
                cx, cy = load(block(c_out, plane, 2 * s), at), load(block(c_out, plane, 2 * s + 1), at)
                gx, gy = load(block(dc, plane, 2 * s), at), load(block(dc, plane, 2 * s + 1), at)
                for k in range(heads):
                    re, im = block(pre, plane, r + 2 * k), block(pre, plane, r + 2 * k + 1)
                    rx, ry = load(re, key), load(im, key)
                    qx, qy = load(block(d, plane, u + 2 * k), at), load(block(d, plane, u + 2 * k + 1), at)
                    gx, gy = gx + qx * rx + qy * ry, gy + qy * rx - qx * ry
                    re, im = block(d, plane, r + 2 * k), block(d, plane, r + 2 * k + 1)
                    store(re, key, load(re, key) + qx * cx + qy * cy)
                    store(im, key, load(im, key) + qy * cx - qx * cy)
                store(block(dc, plane, 2 * s), at, gx)
                store(block(dc, plane, 2 * s + 1), at, gy)
            for k in range(heads):
                i = load(block(pre, plane, 1 + k), at)
                ux, uy = load(block(pre, plane, u + 2 * k), at), load(block(pre, plane, u + 2 * k + 1), at)
                x, y = splat(np.float32(0.0)), splat(np.float32(0.0))  # the gradient at i u
                for s in range(copies):
                    key = integer(order, s * n + unit) * batch + at - unit * batch
                    gx, gy = load(block(dc, plane, 2 * s), at), load(block(dc, plane, 2 * s + 1), at)
                    wx, wy = load(block(pre, plane, w + 2 * k), key), load(block(pre, plane, w + 2 * k + 1), key)
                    x, y = x + gx * wx + gy * wy, y + gy * wx - gx * wy
                    re, im = block(d, plane, w + 2 * k), block(d, plane, w + 2 * k + 1)
                    store(re, key, load(re, key) + i * (gx * ux + gy * uy))
                    store(im, key, load(im, key) + i * (gy * ux - gx * uy))
                store(block(d, plane, 1 + k), at, (x * ux + y * uy) * i * (one - i))
                store(block(d, plane, u + 2 * k), at, i * x)
                store(block(d, plane, u + 2 * k + 1), at, i * y)
            f, df = load(pre, at), splat(np.float32(0.0))
            for s in range(2 * copies):
                g = load(block(dc, plane, s), at)
                df = df + g * load(block(c, plane, s), at)
                store(block(dc, plane, s), at, f * g)
            store(d, at, df * f * (one - f))
    for v in range(3 * heads):
        re, im, scales = w + 2 * v, w + 2 * v + 1, block(trace, plane, v)
        for at in range(0, plane, LANES):
            x, y, scale = load(block(pre, plane, re), at), load(block(pre, plane, im), at), load(scales, at)
            gx, gy = load(block(d, plane, re), at), load(block(d, plane, im), at)
            radial = where_below_one(scale, x * gx + y * gy)
            store(block(d, plane, re), at, scale * (gx - radial * x))
            store(block(d, plane, im), at, scale * (gy - radial * y))
