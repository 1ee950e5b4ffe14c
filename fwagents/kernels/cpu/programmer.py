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
from fwagents.kernels.operator import differentiable
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions, ProgramResult, loop_form
from fwagents.kernels.tensors import address, dense, float32_on_cpu, plain

BLOCK = 1 << 20  # floats of projections that are made before the kernel reads them


def covers(*tensors: Tensor | None) -> bool:
    """Whether the compiled scan can run on these: float32, on the CPU, in plain reverse mode without autocast."""
    if torch.is_autocast_enabled("cpu") or not float32_on_cpu(*tensors):
        return False
    return torch.compiler.is_compiling() or forward_ad._current_level < 0


def scan(inputs: ProgramInputs, options: ProgramOptions) -> ProgramResult:
    """Run the recurrence over a sequence; see :class:`ProgramInputs`, all of which :func:`covers` must hold for.

    Returns:
        Outputs and the last state, differentiable in every tensor but ``start``. The count t is no variable of the
        turns, so its gradient is that of the last count alone.
    """
    traced = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    if torch.compiler.is_compiling() or not all(map(plain, inputs)):
        found = _forward(*inputs, *options, traced)
    elif traced:
        found = cast(Any, _Scan).apply(*inputs, options)
    else:
        found = forward_pass(inputs, options, False)
    return ProgramResult(*found[:4])


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
    (T, B, _), (conv, channels) = inputs.x.shape, inputs.taps.shape
    return layout(T, B, len(inputs.weight), conv, channels, options, inputs.gain is not None)


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
    dy: Tensor | None,
    drecent: Tensor | None,
    dW: Tensor | None,
    y: Tensor,
    W: Tensor,
    trace: Tensor,
    inputs: ProgramInputs,
    options: ProgramOptions,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients at the inputs, None where there is none, or where it is not wanted and costs something."""
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
    dx = borrowed(*inputs.x.shape) if wanted[0] else None
    z, _, normed, mixed = sections_of(trace, plan)
    gradients = ProgramGradients(
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
        now = gradients._replace(z=dz.data_ptr() - 4 * offset * width)
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
    return [dx, dweight, dbias, dtaps, d_recent, d_W, None, None, dgain, dshift, dmix, dmix_bias]


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


@torch.library.custom_op("fwagents::program_scan", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    taps: Tensor,
    recent: Tensor | None,
    W: Tensor | None,
    t: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    mix: Tensor | None,
    mix_bias: Tensor | None,
    heads: int,
    delta: bool,
    gates: int,
    silu: bool,
    turns: Sequence[float],
    first: int,
    every: int,
    norm_eps: float,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns y, recent, W, t and the trace, which is empty unless asked for."""
    inputs = ProgramInputs(x, weight, bias, taps, recent, W, t, start, gain, shift, mix, mix_bias)
    options = ProgramOptions(heads, delta, gates, silu, tuple(turns), first, every, norm_eps)
    return forward_pass(inputs, options, traced)


def _given(arguments: Sequence[Any]) -> tuple[ProgramInputs, ProgramOptions]:
    """Inputs and options from the arguments of the operator."""
    tensors, constants = arguments[: len(ProgramInputs._fields)], list(arguments[len(ProgramInputs._fields) :])
    options = ProgramOptions(*constants[: len(ProgramOptions._fields)])
    return ProgramInputs(*tensors), options._replace(turns=tuple(options.turns))


@_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs, options = _given(arguments)
    plan = layout(
        *map(int, (*inputs.x.shape[:2], len(inputs.weight), *inputs.taps.shape)), options, inputs.gain is not None
    )
    new = inputs.x.new_empty
    return (
        new(plan.T, plan.B, plan.H),
        new(plan.B, plan.conv - 1, 3 * plan.H),
        new(plan.B, options.heads, plan.out, plan.size),
        new(plan.B, 1),
        new(sum(plan.sections) if arguments[-1] else 0),
    )


@torch.library.custom_op("fwagents::program_scan_backward", mutates_args=())
def _backward(
    dy: Tensor | None,
    drecent: Tensor | None,
    dW: Tensor | None,
    y: Tensor,
    W_out: Tensor,
    trace: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    taps: Tensor,
    recent: Tensor | None,
    W: Tensor | None,
    t: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    mix: Tensor | None,
    mix_bias: Tensor | None,
    heads: int,
    delta: bool,
    gates: int,
    silu: bool,
    turns: Sequence[float],
    first: int,
    every: int,
    norm_eps: float,
    wants_x: bool,
) -> list[Tensor]:
    """Returns the gradients at the inputs; empty where there is none."""
    inputs = ProgramInputs(x, weight, bias, taps, recent, W, t, start, gain, shift, mix, mix_bias)
    options = ProgramOptions(heads, delta, gates, silu, tuple(turns), first, every, norm_eps)
    found = backward_pass(dy, drecent, dW, y, W_out, trace, inputs, options, [wants_x])
    return [y.new_empty(0) if d is None else d.clone() for d in found]  # an operator's outputs share no memory


@_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    inputs, _ = _given(arguments[6:])
    absent = {"t", "start"} | (set() if arguments[-1] else {"x"})
    return [
        inputs.x.new_empty(0) if given is None or name in absent else inputs.x.new_empty(given.shape)
        for name, given in inputs._asdict().items()
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, W, _, trace = output
    tensors = inputs[: len(ProgramInputs._fields)]
    ctx.save_for_backward(*tensors, y, W, trace)
    ctx.direct = isinstance(inputs[len(tensors)], ProgramOptions)
    ctx.options = inputs[len(tensors)] if ctx.direct else _given(inputs)[1]
    ctx.mark_non_differentiable(trace)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, y, W, trace = ctx.saved_tensors
    inputs, wanted = ProgramInputs(*tensors), ctx.needs_input_grad
    if torch.is_grad_enabled():
        found = list(differentiable(loop_form(inputs, ctx.options), gradients[:4], inputs, wanted))
    else:
        dy, drecent, dW, dt, *_ = gradients
        given = dy, drecent, dW, y, W, trace
        with torch.autocast("cpu", enabled=False):
            if ctx.direct:
                found = backward_pass(*given, inputs, ctx.options, wanted)
            else:
                found = list(_backward(*given, *inputs, *ctx.options, wanted[0]))
        found[6] = _gradient_at_t(dt, inputs.start)
    found = [d if wants else None for d, wants in zip(found, wanted, strict=False)]
    return *found, *(None,) * (len(wanted) - len(found))


_forward.register_autograd(_differentiate, setup_context=_save)


class _Scan(torch.autograd.Function):
    """The same operator without torch's dispatcher, which costs more than a small scan does."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *tensors, options = inputs
        output = forward_pass(ProgramInputs(*tensors), options, True)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(_differentiate)
