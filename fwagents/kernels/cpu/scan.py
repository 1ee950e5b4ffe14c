"""The forward and the backward pass on the CPU: arrays laid out, threads started, the compiled kernels called.

Attention form inside a chunk, A carried from chunk to chunk; see ``docs/performance.md`` for why and how fast.
Numba is imported, and the kernels are compiled or loaded, when a scan is first run.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.kernels.cpu.kernels import scan_kernels
from fwagents.kernels.cpu.layout import Layout, decay_tables, layout
from fwagents.kernels.cpu.memory import borrowed
from fwagents.kernels.cpu.problem import (
    GROUP,
    TILE,
    Gradients,
    Problem,
    backward_scratch,
    forward_scratch,
    lanes,
    slot_layout,
)
from fwagents.kernels.cpu.threads import run, tasks
from fwagents.kernels.reference import ScanOptions
from fwagents.kernels.tensors import address, dense


def padded_matrix(x: Tensor | None, row: int) -> Tensor | None:
    """``x [..., R, R]`` contiguous, with zeros up to ``row`` both ways."""
    if x is None or x.shape[-1] == row:
        return dense(x)
    return F.pad(x, (0, row - x.shape[-1], 0, row - x.shape[-1]))


def describe(
    shape: tuple[int, int, int],
    plan: Layout,
    norms: int,
    options: ScanOptions,
    tables: Tensor,
    workspace: Tensor,
    marked: bool,
) -> Problem:
    """The problem as far as shapes, options and the workspace say; other addresses are 0."""
    steps, batch, size = shape
    at = [workspace.data_ptr()]
    for floats in plan.sections[:-1]:
        at.append(at[-1] + 4 * floats)
    keys, inputs, normed, scales, key_scales, taken, folded, marks = at
    return Problem(
        steps=steps,
        batch=batch,
        size=size,
        vectors=plan.row // lanes(),
        inner=options.inner_steps,
        sustained=int(options.sustained),
        normalized=int(options.normalize_storage),
        norms=norms,
        norm_eps=options.norm_eps,
        tolerance=options.tolerance or 0.0,
        offset=0,
        longest=plan.longest,
        key_rows=steps + GROUP,
        traced=int(plan.traced),
        tile=TILE if plan.row <= 208 or plan.slots == 0 else 1,
        slots=plan.slots,
        fold_every=plan.fold_every,
        powers=tables.data_ptr(),
        weights=tables.data_ptr() + 4 * (plan.longest + 1),
        marks=marks if marked or plan.slots else 0,
        keys=keys,
        inputs=inputs,
        normed=normed,
        scales=scales,
        key_scales=key_scales,
        taken=0 if options.tolerance is None else taken,
        folded=folded,
    )


def trace_floats(shape: tuple[int, int, int], options: ScanOptions, norms: int, held: bool, marked: bool) -> int:
    """Floats in the trace for T, B, R, rows of layer norm, with an initial A, with episode starts."""
    return layout(shape, options, norms > 0, held, marked, True).floats


def forward_pass(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    weight_ih: Tensor | None,
    bias: Tensor | None,
    options: ScanOptions,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns y, h, A and the trace, which is empty unless asked for."""
    compiled = scan_kernels()
    shape = steps, batch, size = (*drive.shape[:2], len(weight_hh))
    plan = layout((steps, batch, size), options, gain is not None, A is not None, start is not None, traced)
    drive, weight_hh, h, start = drive.contiguous(), weight_hh.contiguous(), dense(h), dense(start)
    gain, shift, A = dense(gain), dense(shift), padded_matrix(A, plan.row)
    tables = decay_tables(options.decay, options.fast_lr, plan.longest)
    weight_ih, bias = dense(weight_ih), dense(bias)
    workspace, y, h_out = borrowed(plan.floats), borrowed(*shape), borrowed(batch, size)
    A_out, memory = borrowed(batch, size, size), torch.empty(batch, 2, dtype=torch.int64)
    norms = 0 if gain is None else len(gain)
    problem = describe(shape, plan, norms, options, tables, workspace, start is not None)._replace(
        width=0 if weight_ih is None else weight_ih.shape[1],
        drive=drive.data_ptr(),
        weight_ih=address(weight_ih),
        bias=address(bias),
        weight=weight_hh.data_ptr(),
        gain=address(gain),
        shift=address(shift),
        h=address(h),
        A=address(A),
        memory=memory.data_ptr(),
        y=y.data_ptr(),
        h_out=h_out.data_ptr(),
        A_out=A_out.data_ptr(),
    )
    if problem.marks:
        compiled.plan(steps, batch, address(start), A is not None, plan.fold_every, plan.limit, problem.marks)
    count = tasks(batch, plan.work)
    floats = forward_scratch(problem)
    scratch = borrowed(count, floats)

    def task(begin: int, end: int, which: int) -> None:
        compiled.forward(problem, begin, end, scratch.data_ptr() + 4 * floats * which)

    read = (drive, weight_hh, gain, shift, weight_ih, bias, h, A, tables)
    run(task, batch, count, (read, memory, y, h_out, A_out, workspace))
    return y, h_out, A_out, workspace if traced else drive.new_empty(0)


def backward_pass(
    dy: Tensor | None,
    dh_out: Tensor | None,
    dA_out: Tensor | None,
    y: Tensor,
    trace: Tensor,
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    weight_ih: Tensor | None,
    options: ScanOptions,
    wants_drive: bool,
    wants_A: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients at drive, weight_hh, h, A, gain, shift, weight_ih and bias; None where there is no such input.

    Those at drive (where that is x) and A only if wanted; without a ``weight_ih`` the first is always there.
    """
    compiled = scan_kernels()
    shape = steps, batch, size = (*y.shape[:2], len(weight_hh))
    plan = layout((steps, batch, size), options, gain is not None, A is not None, start is not None, True)
    wants_A = wants_A and A is not None
    dy, dh_out, dA_out, h = dense(dy), dense(dh_out), dense(dA_out), dense(h)
    weight_hh, gain, A = weight_hh.contiguous(), dense(gain), padded_matrix(A, plan.row)
    tables = decay_tables(options.decay, options.fast_lr, plan.longest)
    norms = 0 if gain is None else len(gain)
    drive, weight_ih = drive.contiguous(), dense(weight_ih)
    width = 0 if weight_ih is None else weight_ih.shape[1]
    problem = describe(shape, plan, norms, options, tables, trace, start is not None)._replace(
        width=width,
        drive=drive.data_ptr(),
        weight_ih=address(weight_ih),
        weight=weight_hh.data_ptr(),
        gain=address(gain),
        h=address(h),
        A=address(A),
        y=y.data_ptr(),
    )
    count = tasks(batch, 2 * plan.work)
    matrices = plan.slots > 0 or A is not None or dA_out is not None
    slot = slot_layout(plan.row, options.inner_steps, plan.longest, plan.longest if matrices else 0, matrices)
    floats = backward_scratch(problem, slot)
    scratch = borrowed(count, floats)
    ddrive = borrowed(*drive.shape) if wants_drive or not width else None
    dA = borrowed(batch, size, size) if wants_A else None
    dh = None if h is None else y.new_empty(batch, size)
    dweight, dweight_ih = y.new_empty(count, size, size), y.new_empty(count, size, width)
    dbias, dnorm = y.new_empty(count, size), y.new_empty(count, 2, norms, size)
    gradients = Gradients(
        y=address(dy),
        h_out=address(dh_out),
        A_out=address(dA_out),
        drive=address(ddrive),
        h=address(dh),
        A_in=address(dA),
        weight=dweight.data_ptr(),
        weight_ih=dweight_ih.data_ptr(),
        bias=dbias.data_ptr(),
        norm=dnorm.data_ptr(),
    )

    def task(begin: int, end: int, which: int) -> None:
        compiled.backward(problem, gradients, slot, begin, end, which, scratch.data_ptr() + 4 * floats * which)

    read = (dy, dh_out, dA_out, trace, drive, weight_ih, weight_hh, gain, h, A, y, tables)
    sums = (dweight, dnorm, dweight_ih, dbias)
    run(task, batch, count, (read, ddrive, dh, dA, sums))
    dweight, dnorm, dweight_ih, dbias = (x[0] if count == 1 else x.sum(0) for x in sums)
    dgain, dshift = dnorm.unbind() if norms else (None, None)
    return ddrive, dweight, dh, dA, dgain, dshift, *((dweight_ih, dbias) if width else (None, None))
