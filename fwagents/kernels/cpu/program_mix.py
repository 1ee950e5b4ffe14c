"""The compiled output gate of the fast-weight programmers, and its derivative."""

from fwagents.kernels.cpu.problem import FLOAT
from fwagents.kernels.cpu.program_rows import ONE, ZERO, put, take
from fwagents.kernels.cpu.simd import LANES, exp, splat


def mix(
    rows: int, size: int, z: int, width: int, column: int, mixed: int, out: int, dout: int, dmixed: int, dz: int
) -> None:
    """Compute the output gate, ``out = g mixed + (1 - g) skip`` with g a sigmoid, or its derivative if ``dout`` is set.

    Args:
        rows: number of steps times rows of the batch.
        size: H.
        z: projections; the H gates begin at ``column``, the H skips follow them.
        width: floats in a row of ``z``.
        column: see ``z``.
        mixed: M LN[r] + m [rows, H].
        out: out [rows, H].
        dout: gradient at ``out``, or 0.
        dmixed: out, gradient at ``mixed``.
        dz: out, gradient at ``z``, in the same layout.
    """
    one = splat(ONE)
    for i in range(rows):
        gates = z + (i * width + column) * FLOAT
        skips = gates + size * FLOAT
        line = i * size * FLOAT
        for v in range(0, size, LANES):
            some = size - v
            e = exp(splat(ZERO) - take(gates, v, some))
            g = one / (one + e)
            skip, m = take(skips, v, some), take(mixed + line, v, some)
            if dout:
                d = take(dout + line, v, some)
                to = dz + (i * width + column) * FLOAT
                put(dmixed + line, v, d * g, size)
                put(to, v, d * (m - skip) * g * (e * g), size)
                put(to + size * FLOAT, v, d * (e * g), size)
            else:
                put(out + line, v, skip + g * (m - skip), size)
