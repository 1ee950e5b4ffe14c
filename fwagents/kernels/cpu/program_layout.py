"""Sizes of a scan of the fast-weight programmers and of its trace, and the arguments of the kernels."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fwagents.kernels.cpu.problem import lanes, padded
from fwagents.kernels.cpu.program_problem import MEMORY, TURNS, ProgramProblem, chunk_of
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions
from fwagents.kernels.tensors import address

BLOCK = 1 << 20  # floats of projections that are computed before the kernel reads them


class Layout(NamedTuple):
    """Sizes that follow from shapes and options, and the sections of a trace in floats.

    Attributes:
        T: steps.
        B: rows of the batch.
        H: units.
        size: d.
        out: E.
        row: floats in a padded row of d or E.
        width: floats in a row of projections.
        conv: c.
        chunk: steps between two matrices that are kept.
        slots: matrices of a head that are kept for a row.
        block: steps that are computed together.
        work: approximate number of multiplications.
        sections: floats of the projections, the reads, the normalised reads, their product with M, the errors or the
            sums, and the kept matrices.
    """

    T: int
    B: int
    H: int
    size: int
    out: int
    row: int
    width: int
    conv: int
    chunk: int
    slots: int
    block: int
    work: int
    sections: tuple[int, ...]


@lru_cache(maxsize=256)
def layout(T: int, B: int, width: int, conv: int, channels: int, options: ProgramOptions, mixed: bool) -> Layout:
    """Compute the layout for T, B, the rows of ``weight`` (``width``), c, 3H, with or without an output gate."""
    H, heads = channels // 3, options.heads
    size = H // heads
    out = size if options.delta else size + 1
    row = padded(out)
    chunk = chunk_of(row)
    slots = -(-T // chunk)
    units = T * B * H
    gated = units if mixed else 0
    sections = (
        T * B * width,
        gated,
        gated,
        gated,
        units if options.delta else T * B * heads,
        B * slots * heads * row * row,
    )
    block = max(1, BLOCK // (B * width * chunk)) * chunk
    return Layout(T, B, H, size, out, row, width, conv, chunk, slots, block, 5 * units * (size + 8), sections)


def layout_of(inputs: ProgramInputs, options: ProgramOptions) -> Layout:
    """Compute the layout for the shapes of these inputs."""
    shape = (*inputs.x.shape[:2], len(inputs.weight), *inputs.taps.shape)
    return layout(*map(int, shape), options, inputs.gain is not None)


def sizes(inputs: ProgramInputs, options: ProgramOptions) -> tuple[list[tuple[int, ...]], int]:
    """Return the shapes of y, recent, W and t, and the number of floats in a trace."""
    plan = layout_of(inputs, options)
    B, H = plan.B, plan.H
    return [(plan.T, B, H), (B, plan.conv - 1, 3 * H), (B, options.heads, plan.out, plan.size), (B, 1)], sum(
        plan.sections
    )


@lru_cache(maxsize=16)
def turn_tables(turns: tuple[float, ...], row: int) -> Tensor:
    """Return cosines and signed sines of 0 to 255 steps, and of the same multiples of 256 and of 65,536 steps."""
    with torch.device("cpu"):
        counts = torch.arange(TURNS, dtype=torch.float64) * torch.tensor([[1.0], [TURNS], [TURNS**2]])
        return turn_rows(counts.flatten(), turns, row)


def turn_rows(steps: Tensor, turns: tuple[float, ...], row: int) -> Tensor:
    """Return a padded row of cosines and one of sines, the first of each pair negated, for each number of steps."""
    share = steps.double().unsqueeze(1) * torch.tensor(turns, dtype=torch.float64)
    angle = (share - share.floor()) * (2 * math.pi)
    pairs = 2 * len(turns)
    rows = torch.zeros(len(steps), 2, row, dtype=torch.float32)
    rows[:, 0] = 1
    rows[:, 0, :pairs] = angle.cos().repeat_interleave(2, 1)
    rows[:, 1, 0:pairs:2] = -angle.sin()
    rows[:, 1, 1:pairs:2] = angle.sin()
    return rows


class Described(NamedTuple):
    """A problem, and the tensors to which it holds only addresses."""

    problem: ProgramProblem
    memory: Tensor
    turned: Tensor | None
    alive: tuple[Any, ...]


def describe(inputs: ProgramInputs, options: ProgramOptions, plan: Layout, trace: Tensor, reads: Tensor) -> Described:
    """Build the problem for contiguous inputs; without an output gate, the kernel writes the outputs to ``reads``."""
    mixed, turned = inputs.gain is not None, bool(options.every and plan.size > 1)
    at = [trace.data_ptr()]
    for floats in plan.sections:
        at.append(at[-1] + 4 * floats)
    memory = torch.empty(plan.B, MEMORY, dtype=torch.int64, device="cpu")
    tables = turn_tables(options.turns, plan.row) if turned else None
    before = turn_rows(inputs.t.detach().view(-1), options.turns, plan.row) if turned and inputs.t is not None else None
    problem = ProgramProblem(
        steps=plan.T,
        batch=plan.B,
        heads=options.heads,
        size=plan.size,
        out=plan.out,
        vectors=plan.row // lanes(),
        conv=plan.conv,
        width=plan.width,
        chunk=plan.chunk,
        slots=plan.slots,
        gates=options.gates,
        delta=int(options.delta),
        silu=int(options.silu),
        first=options.first,
        every=options.every if turned else 0,
        held=0,
        traced=0,
        norm_eps=options.norm_eps,
        z=at[0],
        taps=inputs.taps.data_ptr(),
        recent=address(inputs.recent),
        W_in=address(inputs.W),
        t_in=address(inputs.t),
        start=address(inputs.start),
        turns=address(tables),
        turned=address(before),
        gain=address(inputs.gain),
        shift=address(inputs.shift),
        memory=memory.data_ptr(),
        reads=at[1] if mixed else reads.data_ptr(),
        normed=at[2] if mixed else 0,
        errors=at[4] if options.delta else 0,
        sums=0 if options.delta else at[4],
        kept=at[5],
    )
    return Described(problem, memory, before, (inputs, trace, reads, memory, tables, before))


def sections_of(trace: Tensor, plan: Layout) -> list[Tensor]:
    """Return projections, reads, normalised reads and their product with M as views, a row per step and batch row."""
    found, begin = [], 0
    for floats, width in zip(plan.sections, (plan.width, *(plan.H,) * 3), strict=False):
        rows = plan.T * plan.B if floats else 0
        found.append(trace[begin : begin + rows * width].view(rows, width))
        begin += floats
    return found
