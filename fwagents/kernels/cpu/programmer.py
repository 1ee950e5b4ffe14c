"""The scan of the fast-weight programmers on the CPU, as a differentiable torch operator.

The products with weights are torch's, one for many steps; all else is in the compiled kernels. Both go over the
sequence in blocks of steps, so that what one leaves is still in the cache when the other reads it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fwagents.kernels.cpu.kernels import program_kernels
from fwagents.kernels.cpu.memory import borrowed
from fwagents.kernels.cpu.problem import lanes, padded
from fwagents.kernels.cpu.program_problem import (
    MEMORY,
    TURNS,
    ProgramGradients,
    ProgramProblem,
    chunk_of,
    places,
)
from fwagents.kernels.cpu.threads import run, tasks
from fwagents.kernels.operator import CompiledScan
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions, ProgramResult, loop_form
from fwagents.kernels.tensors import address, dense, float32_on_cpu

BLOCK = 1 << 20  # floats of projections that are made before the kernel reads them


def covers(*tensors: Tensor | None) -> bool:
    """Whether the compiled scan can run on these: float32, on the CPU, in plain reverse mode without autocast."""
    if torch.is_autocast_enabled("cpu") or not float32_on_cpu(*tensors):
        return False
    return torch.compiler.is_compiling() or forward_ad._current_level < 0


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
        work: multiplications, about.
        sections: floats of the projections, the reads, the reads behind their layer norm, their product with M, the
            errors or the sums, and the kept matrices.
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
    """The layout for T, B, rows of ``weight``, c, 3H, and with an output gate or without."""
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
    """The layout for the shapes of these inputs."""
    shape = (*inputs.x.shape[:2], len(inputs.weight), *inputs.taps.shape)
    return layout(*map(int, shape), options, inputs.gain is not None)


def sizes(inputs: ProgramInputs, options: ProgramOptions) -> tuple[list[tuple[int, ...]], int]:
    """The shapes of y, recent, W and t, and the floats in a trace."""
    plan = layout_of(inputs, options)
    B, H = plan.B, plan.H
    return [(plan.T, B, H), (B, plan.conv - 1, 3 * H), (B, options.heads, plan.out, plan.size), (B, 1)], sum(
        plan.sections
    )


@lru_cache(maxsize=16)
def turn_tables(turns: tuple[float, ...], row: int) -> Tensor:
    """Cosines and signed sines of 0 to 255 single steps, of as many times 256 and of as many times 65,536."""
    with torch.device("cpu"):
        counts = torch.arange(TURNS, dtype=torch.float64) * torch.tensor([[1.0], [TURNS], [TURNS**2]])
        return turn_rows(counts.flatten(), turns, row)


def turn_rows(steps: Tensor, turns: tuple[float, ...], row: int) -> Tensor:
    """For each number of steps a padded row of cosines and one of sines, the first of each pair negative."""
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
    """A problem, and the tensors that it knows by address only."""

    problem: ProgramProblem
    memory: Tensor
    turned: Tensor | None
    alive: tuple[Any, ...]


def describe(inputs: ProgramInputs, options: ProgramOptions, plan: Layout, trace: Tensor, reads: Tensor) -> Described:
    """The problem of a scan whose inputs are contiguous; ``reads`` are the outputs where there is no output gate."""
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


def _dense(inputs: ProgramInputs) -> ProgramInputs:
    return ProgramInputs(*(None if x is None else x.contiguous() for x in inputs))  # type: ignore[arg-type]


def forward_pass(
    inputs: ProgramInputs, options: ProgramOptions, traced: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns y, recent, W, t and the trace, which is empty unless asked for."""
    compiled, plan, inputs = program_kernels(), layout_of(inputs, options), _dense(inputs)
    T, B, H = plan.T, plan.B, plan.H
    x = inputs.x.view(T * B, -1)
    trace, y = borrowed(sum(plan.sections[:-1]) + (plan.sections[-1] if traced else 0)), borrowed(T, B, H)
    recent, W = borrowed(B, plan.conv - 1, 3 * H), borrowed(B, options.heads, plan.out, plan.size)
    t, held = x.new_empty(B, 1), borrowed(B, options.heads, plan.row, plan.row)
    problem, *_, alive = describe(inputs, options, plan, trace, y)
    problem = problem._replace(
        traced=int(traced),
        W=held.data_ptr(),
        recent_out=recent.data_ptr(),
        W_out=W.data_ptr(),
        t_out=t.data_ptr(),
    )
    at = places(problem, False)
    count = tasks(B, plan.work)
    scratch = borrowed(count, at.floats)
    z, _, normed, mixed = sections_of(trace, plan)
    for begin in range(0, T, plan.block):
        end = min(begin + plan.block, T)
        rows = slice(begin * B, end * B)
        torch.addmm(inputs.bias, x[rows], inputs.weight.t(), out=z[rows])

        def task(first: int, last: int, which: int, begin: int = begin, end: int = end) -> None:
            compiled.forward(problem, at, begin, end, first, last, scratch.data_ptr() + 4 * at.floats * which)

        run(task, B, count, (alive, recent, W, t, held, scratch))
        if inputs.mix is not None:
            torch.addmm(cast(Tensor, inputs.mix_bias), normed[rows], inputs.mix.t(), out=mixed[rows])
            mix_rows(plan, rows, z[rows], mixed[rows], y.view(T * B, H)[rows], None, None, None)
    return y, recent, W, t, trace if traced else x.new_empty(0)


def sections_of(trace: Tensor, plan: Layout) -> list[Tensor]:
    """Projections, reads, reads behind their layer norm and their product with M, a row for each step and row."""
    found, begin = [], 0
    for floats, width in zip(plan.sections, (plan.width, *(plan.H,) * 3), strict=False):
        rows = plan.T * plan.B if floats else 0
        found.append(trace[begin : begin + rows * width].view(rows, width))
        begin += floats
    return found


def mix_rows(
    plan: Layout,
    rows: slice,
    z: Tensor,
    mixed: Tensor,
    out: Tensor | None,
    dout: Tensor | None,
    dmixed: Tensor | None,
    dz: Tensor | None,
) -> None:
    """The output gate of some rows, or its derivative, on as many threads as it is worth."""
    H, width, compiled = plan.H, plan.width, program_kernels()
    addresses = [address(x) for x in (out, dout, dmixed, dz)]
    steps = [4 * H, 4 * H, 4 * H, 4 * width]
    column = width - 2 * H

    def task(begin: int, end: int, which: int) -> None:
        moved = [a + begin * step if a else 0 for a, step in zip(addresses, steps, strict=True)]
        z_at, mixed_at = z.data_ptr() + 4 * width * begin, mixed.data_ptr() + 4 * H * begin
        compiled.mix(end - begin, H, z_at, width, column, mixed_at, *moved)

    count = rows.stop - rows.start
    run(task, count, tasks(count, 8 * count * H), (z, mixed, out, dout, dmixed, dz))


def backward_pass(
    gradients: Sequence[Tensor | None],
    kept: Sequence[Tensor],
    trace: Tensor,
    inputs: ProgramInputs,
    options: ProgramOptions,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients at the inputs; see :class:`~fwagents.kernels.operator.CompiledScan`.

    That at x is left out if it is not wanted; the others come along for nothing.
    """
    with torch.autocast("cpu", enabled=False):
        return _backward(gradients, kept, trace, inputs, options, wanted[0])


def _backward(
    gradients: Sequence[Tensor | None],
    kept: Sequence[Tensor],
    trace: Tensor,
    inputs: ProgramInputs,
    options: ProgramOptions,
    wants_x: bool,
) -> list[Tensor | None]:
    (dy, drecent, dW, dt), (y, W) = gradients, kept
    compiled, plan, inputs = program_kernels(), layout_of(inputs, options), _dense(inputs)
    T, B, H, width, heads, row = plan.T, plan.B, plan.H, plan.width, options.heads, plan.row
    x, has_mix = inputs.x.view(T * B, -1), inputs.mix is not None
    dy = torch.zeros_like(y) if dy is None else dy.contiguous()
    drecent, dW = dense(drecent), dense(dW)
    problem, *_, alive = describe(inputs, options, plan, trace, y)
    at = places(problem, True)
    count = tasks(B, 2 * plan.work)
    scratch = borrowed(count, at.floats)
    G, carry = borrowed(B, heads, row, row), borrowed(B, heads, 3, plan.conv - 1, row)
    scale = x.new_zeros(B, heads) if dW is None else (dW * W).sum((2, 3))
    tail = torch.empty(B, dtype=torch.int64, device="cpu")
    dtaps, dnorm = borrowed(count, plan.conv, 3 * H), borrowed(count, 2, H)
    d_recent = None if inputs.recent is None else torch.empty_like(inputs.recent)
    d_W = None if inputs.W is None else torch.empty_like(inputs.W)
    block = min(plan.block, T) * B
    dz, dmixed, dreads = borrowed(block, width), borrowed(block, H), borrowed(block, H)
    dweight, dbias = x.new_empty(width, x.shape[1]), x.new_empty(width)
    dmix, dmix_bias = (x.new_empty(H, H), x.new_empty(H)) if has_mix else (None, None)
    dx = borrowed(*inputs.x.shape) if wants_x else None
    z, _, normed, mixed = sections_of(trace, plan)
    to = ProgramGradients(
        y=dy.data_ptr(),
        recent_out=address(drecent),
        W_out=address(dW),
        G=G.data_ptr(),
        scale=scale.data_ptr(),
        carry=carry.data_ptr(),
        tail=tail.data_ptr(),
        z=0,
        taps=dtaps.data_ptr(),
        norm=dnorm.data_ptr(),
        recent=address(d_recent),
        W_in=address(d_W),
    )
    keep = 0.0  # of the sums over steps
    for begin in reversed(range(0, T, plan.block)):
        end = min(begin + plan.block, T)
        rows, some = slice(begin * B, end * B), (end - begin) * B
        dz_now, offset = dz[:some], begin * B
        now = to._replace(z=dz.data_ptr() - 4 * offset * width)
        if has_mix:
            dm, dr = dmixed[:some], dreads[:some]
            mix_rows(plan, rows, z[rows], mixed[rows], None, dy.view(T * B, H)[rows], dm, dz_now)
            torch.mm(dm, cast(Tensor, inputs.mix), out=dr)
            cast(Tensor, dmix).addmm_(dm.t(), normed[rows], beta=keep)
            _sum_rows(dm, cast(Tensor, dmix_bias), keep)
            now = now._replace(y=dreads.data_ptr() - 4 * offset * H)

        def task(
            first: int, last: int, which: int, begin: int = begin, end: int = end, now: ProgramGradients = now
        ) -> None:
            compiled.backward(
                problem, now, at, begin, end, first, last, which, scratch.data_ptr() + 4 * at.floats * which
            )

        run(task, B, count, (alive, dy, drecent, dW, scale, G, carry, tail, dz, dreads, dtaps, dnorm, d_recent, d_W))
        dweight.addmm_(dz_now.t(), x[rows], beta=keep)
        _sum_rows(dz_now, dbias, keep)
        if dx is not None:
            torch.mm(dz_now, inputs.weight, out=dx.view(T * B, -1)[rows])
        keep = 1.0
    dtaps, dnorm = (s[0] if count == 1 else s.sum(0) for s in (dtaps, dnorm))
    dgain, dshift = dnorm.unbind() if has_mix else (None, None)
    at_t = _gradient_at_t(dt, inputs.start)
    return [dx, dweight, dbias, dtaps, d_recent, d_W, at_t, None, dgain, dshift, dmix, dmix_bias]


def _sum_rows(x: Tensor, out: Tensor, keep: float) -> None:
    """``out = keep out + x.sum(0)``."""
    if keep:
        out += x.sum(0)
    else:
        torch.sum(x, 0, out=out)


def _gradient_at_t(dt: Tensor | None, start: Tensor | None) -> Tensor | None:
    """The count of a row goes on unless an episode begins."""
    if dt is None or start is None:
        return dt
    return dt.masked_fill(start.any(0).unsqueeze(1), 0.0)


# :func:`covers` must hold for its inputs. The count t is no variable of the turns, so its gradient is that of the last
# count alone.
scan = CompiledScan(
    "program_scan",
    ProgramInputs,
    ProgramOptions,
    ProgramResult,
    forward=forward_pass,
    backward=backward_pass,
    sizes=sizes,
    reference=loop_form,
    kept=["y", "W"],
)
