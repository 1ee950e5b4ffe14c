"""The forward and the backward pass on the CPU: lays out arrays, starts threads and calls the compiled kernels.

A chunk is computed in attention form, and A carries over from chunk to chunk; ``docs/performance.md`` gives the reasons
and speeds. Numba is imported, and the kernels are compiled or loaded, when a scan first runs.
"""

from collections.abc import Sequence
from typing import Any

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
from fwagents.kernels.operator import CompiledScan
from fwagents.kernels.reference import ScanInputs, ScanOptions, ScanResult, matrix_form
from fwagents.kernels.tensors import address, dense, float32_on_cpu


def padded_matrix(x: Tensor | None, row: int) -> Tensor | None:
    """Return ``x [..., R, R]`` contiguous and padded with zeros to [..., row, row]."""
    if x is None or x.shape[-1] == row:
        return dense(x)
    return F.pad(x, (0, row - x.shape[-1], 0, row - x.shape[-1]))


def layout_of(inputs: ScanInputs, options: ScanOptions, traced: bool) -> Layout:
    """Compute the layout for the shapes of these inputs, with or without a trace."""
    shape = steps_batch_size(inputs)
    return layout(shape, options, inputs.gain is not None, inputs.A is not None, inputs.start is not None, traced)


def steps_batch_size(inputs: ScanInputs) -> tuple[int, int, int]:
    """Return T, B and R."""
    steps, batch, _ = inputs.drive.shape
    return int(steps), int(batch), len(inputs.weight_hh)


def packed_inputs(inputs: ScanInputs, row: int) -> ScanInputs:
    """Return the inputs as the kernels read them: contiguous, and A padded to ``row``."""
    packed: dict[str, Any] = {name: dense(x) for name, x in inputs._asdict().items() if name != "A"}
    return ScanInputs(A=padded_matrix(inputs.A, row), **packed)


def describe(
    inputs: ScanInputs,
    shape: tuple[int, int, int],
    plan: Layout,
    options: ScanOptions,
    tables: Tensor,
    workspace: Tensor,
) -> Problem:
    """Build the problem for packed inputs; the addresses of outputs are 0."""
    steps, batch, size = shape
    at = [workspace.data_ptr()]
    for floats in plan.sections[:-1]:
        at.append(at[-1] + 4 * floats)
    keys, reads, normed, scales, key_scales, taken, folded, marks = at
    return Problem(
        steps=steps,
        batch=batch,
        size=size,
        vectors=plan.row // lanes(),
        inner=options.inner_steps,
        sustained=int(options.sustained),
        normalized=int(options.normalize_storage),
        norms=0 if inputs.gain is None else len(inputs.gain),
        norm_eps=options.norm_eps,
        tolerance=options.tolerance or 0.0,
        offset=0,
        longest=plan.longest,
        key_rows=steps + GROUP,
        traced=int(plan.traced),
        tile=TILE if plan.row <= 208 or plan.slots == 0 else 1,
        slots=plan.slots,
        fold_every=plan.fold_every,
        width=0 if inputs.weight_ih is None else inputs.weight_ih.shape[1],
        drive=inputs.drive.data_ptr(),
        weight_ih=address(inputs.weight_ih),
        bias=address(inputs.bias),
        weight=inputs.weight_hh.data_ptr(),
        gain=address(inputs.gain),
        shift=address(inputs.shift),
        powers=tables.data_ptr(),
        weights=tables.data_ptr() + 4 * (plan.longest + 1),
        marks=marks if inputs.start is not None or plan.slots else 0,
        h=address(inputs.h),
        A=address(inputs.A),
        keys=keys,
        inputs=reads,
        normed=normed,
        scales=scales,
        key_scales=key_scales,
        taken=0 if options.tolerance is None else taken,
        folded=folded,
    )


def covers(inputs: ScanInputs) -> bool:
    """Return whether the compiled scan can run on these inputs."""
    return float32_on_cpu(*inputs._replace(start=None))


def sizes(inputs: ScanInputs, options: ScanOptions) -> tuple[list[tuple[int, ...]], int]:
    """Return the shapes of y, h and A, and the number of floats in a trace."""
    steps, batch, size = steps_batch_size(inputs)
    return [(steps, batch, size), (batch, size), (batch, size, size)], layout_of(inputs, options, True).floats


def forward_pass(inputs: ScanInputs, options: ScanOptions, traced: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, h, A and the trace, which is empty unless ``traced``."""
    compiled, plan, shape = scan_kernels(), layout_of(inputs, options, traced), steps_batch_size(inputs)
    steps, batch, size = shape
    inputs = packed_inputs(inputs, plan.row)
    tables = decay_tables(options.decay, options.fast_lr, plan.longest)
    workspace, y, h, A = borrowed(plan.floats), borrowed(*shape), borrowed(batch, size), borrowed(batch, size, size)
    memory = torch.empty(batch, 2, dtype=torch.int64)
    problem = describe(inputs, shape, plan, options, tables, workspace)._replace(
        memory=memory.data_ptr(), y=y.data_ptr(), h_out=h.data_ptr(), A_out=A.data_ptr()
    )
    if problem.marks:
        held = inputs.A is not None
        compiled.plan(steps, batch, address(inputs.start), held, plan.fold_every, plan.limit, problem.marks)
    count = tasks(batch, plan.work)
    floats = forward_scratch(problem)
    scratch = borrowed(count, floats)

    def task(begin: int, end: int, which: int) -> None:
        compiled.forward(problem, begin, end, scratch.data_ptr() + 4 * floats * which)

    run(task, batch, count, (inputs, tables, memory, y, h, A, workspace))
    return y, h, A, workspace if traced else y.new_empty(0)


def backward_pass(
    gradients: Sequence[Tensor | None],
    kept: Sequence[Tensor],
    trace: Tensor,
    inputs: ScanInputs,
    options: ScanOptions,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients at the inputs; see ``CompiledScan``.

    The gradients at x and at A are skipped if they are not wanted; the others cost nothing extra.
    """
    compiled, plan, shape = scan_kernels(), layout_of(inputs, options, True), steps_batch_size(inputs)
    _, batch, size = shape
    (y,), (dy, dh_out, dA_out), wants = kept, map(dense, gradients), ScanInputs(*wanted)  # type: ignore[arg-type]
    inputs = packed_inputs(inputs, plan.row)
    tables = decay_tables(options.decay, options.fast_lr, plan.longest)
    problem = describe(inputs, shape, plan, options, tables, trace)._replace(y=y.data_ptr())
    norms, width = problem.norms, problem.width
    count = tasks(batch, 2 * plan.work)
    matrices = plan.slots > 0 or inputs.A is not None or dA_out is not None
    slot = slot_layout(plan.row, options.inner_steps, plan.longest, plan.longest if matrices else 0, matrices)
    floats = backward_scratch(problem, slot)
    scratch = borrowed(count, floats)
    ddrive = borrowed(*inputs.drive.shape) if wants.drive or not width else None
    dA = borrowed(batch, size, size) if wants.A and inputs.A is not None else None
    dh = None if inputs.h is None else y.new_empty(batch, size)
    dweight, dweight_ih = y.new_empty(count, size, size), y.new_empty(count, size, width)
    dbias, dnorm = y.new_empty(count, size), y.new_empty(count, 2, norms, size)
    to = Gradients(
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
        compiled.backward(problem, to, slot, begin, end, which, scratch.data_ptr() + 4 * floats * which)

    sums = (dweight, dnorm, dweight_ih, dbias)
    run(task, batch, count, (dy, dh_out, dA_out, y, trace, inputs, tables, ddrive, dh, dA, sums))
    dweight, dnorm, dweight_ih, dbias = (x[0] if count == 1 else x.sum(0) for x in sums)
    dgain, dshift = dnorm.unbind() if norms else (None, None)
    return [ddrive, dweight, dh, dA, None, dgain, dshift, *((dweight_ih, dbias) if width else (None, None))]


scan = CompiledScan(
    "fast_weight_scan",
    ScanInputs,
    ScanOptions,
    ScanResult,
    forward=forward_pass,
    backward=backward_pass,
    sizes=sizes,
    reference=matrix_form,
    kept=["y"],
)
