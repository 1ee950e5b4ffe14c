"""Smaller compiled entry points: where to fold, and the A after a history."""

from fwagents.kernels.cpu.forward import fold_into, prepare, write_matrix
from fwagents.kernels.cpu.problem import FLOAT, FOLD, GO_ON, RESET, Problem
from fwagents.kernels.cpu.simd import LANES, byte, set_byte


def plan(steps: int, batch: int, start: int, held: int, every: int, limit: int, marks: int) -> None:
    """Mark where each row's memory is reset or folded.

    A run of steps between resets folds every ``every`` steps if it is longer than ``limit``, or, after an initial A
    (``held``), longer than 1.5 ``every``. A shorter run attends to its whole past.

    Args:
        steps: T.
        batch: B.
        start: address of bytes [T, B], or 0.
        held: whether an initial A is given.
        every: keys between folds.
        limit: longest run without an initial A that is not folded.
        marks: address of bytes [B, T], written.
    """
    for tail in range(batch * steps, (batch * steps + 3) // 4 * 4):
        set_byte(marks, tail, 0)
    for b in range(batch):
        begin = 0
        while begin < steps:
            attends = begin > 0 or held == 0
            reset = start != 0 and byte(start, begin * batch + b) != 0
            set_byte(marks, b * steps + begin, RESET if reset else GO_ON)
            end = begin + 1
            while end < steps and (start == 0 or byte(start, end * batch + b) == 0):
                end += 1
            length = end - begin
            fold = length > (limit if reset or attends else every + every // 2)
            for t in range(begin + 1, end):
                set_byte(marks, b * steps + t, FOLD if fold and (t - begin) % every == 0 else GO_ON)
            begin = end


def prepared(p: Problem, out: int) -> None:
    """Pack the weights once for many calls; see ``prepare``."""
    prepare(p, out)


def final(p: Problem, out: int, padded: int, begin: int, end: int, scratch: int) -> None:
    """Write the A after all steps, for rows ``begin`` to ``end``, to ``out`` [B, R, R], or with padded rows."""
    row = p.vectors * LANES
    for b in range(begin, end):
        if padded:
            fold_into(p, b, p.offset + p.steps, out + b * row * row * FLOAT, scratch)
        else:
            write_matrix(p, b, out + b * p.size * p.size * FLOAT, scratch)
