"""The fused scan on the CPU: the compiled kernels as differentiable torch operators.

Attention form inside a chunk, A carried from chunk to chunk; see ``docs/performance.md`` for why and how fast.
Numba is imported, and the kernels are compiled or loaded, when a scan is first run.
"""

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.kernels._layout import FOLD_EVERY, Layout, decay_tables, layout
from fwagents.kernels._memory import borrowed
from fwagents.kernels._problem import (
    GROUP,
    TILE,
    Gradients,
    Problem,
    backward_scratch,
    forward_scratch,
    lanes,
    slot_layout,
)
from fwagents.kernels._threads import run, tasks
from fwagents.kernels.reference import ScanOptions, ScanResult, matrix_form, zeros_for_none

if TYPE_CHECKING:
    from fwagents.kernels._compiled import Kernels

_lock = Lock()


@lru_cache(maxsize=1)
def _load() -> "Kernels":
    from fwagents.kernels import _compiled

    return _compiled.build()


def kernels() -> "Kernels":
    """The compiled kernels; the first call in a process takes about a second, or compiles them."""
    with _lock:
        return _load()


def covers(*tensors: Tensor | None) -> bool:
    """Whether the compiled scan can run on these: all of them float32, on the CPU."""
    return all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in tensors)


def scan(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    options: ScanOptions,
) -> ScanResult:
    """See :func:`fwagents.kernels.fast_weight_scan`; an ``h`` or ``A`` of None is zero, and cheaper than zeros."""
    if gain is None or shift is None:
        gain = shift = None
    inputs = (drive, weight_hh, h, A, start, gain, shift)
    traced = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    if torch.compiler.is_compiling():
        y, h_out, A_out, _ = _forward(*inputs, *options, traced)
    elif traced:
        y, h_out, A_out, _ = cast(Any, _Scan).apply(*inputs, options)
    else:
        y, h_out, A_out, _ = forward_pass(*inputs, options, False)
    return ScanResult(y, h_out, A_out)


def dense(x: Tensor | None) -> Tensor | None:
    """Contiguous, or None."""
    return None if x is None else x.contiguous()


def address(x: Tensor | None) -> int:
    """Of the first number; 0 for None."""
    return 0 if x is None else x.data_ptr()


def padded_matrix(x: Tensor | None, row: int) -> Tensor | None:
    """``x [..., R, R]`` contiguous, with zeros up to ``row`` both ways."""
    if x is None or x.shape[-1] == row:
        return dense(x)
    return F.pad(x, (0, row - x.shape[-1], 0, row - x.shape[-1]))


def describe(
    shape: torch.Size, plan: Layout, norms: int, options: ScanOptions, tables: Tensor, workspace: Tensor, marked: bool
) -> Problem:
    """The problem as far as shapes, options and the workspace say; other addresses are 0."""
    steps, batch, size = shape
    at = [workspace.data_ptr()]
    for floats in plan.sections[:-1]:
        at.append(at[-1] + 4 * floats)
    keys, inputs, normed, scales, key_scales, folded, marks = at
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
        offset=0,
        longest=plan.longest,
        key_rows=steps + GROUP,
        traced=int(plan.traced),
        tile=TILE if plan.row <= 208 or plan.slots == 0 else 1,
        slots=plan.slots,
        fold_every=FOLD_EVERY,
        powers=tables.data_ptr(),
        weights=tables.data_ptr() + 4 * (plan.longest + 1),
        marks=marks if marked or plan.slots else 0,
        keys=keys,
        inputs=inputs,
        normed=normed,
        scales=scales,
        key_scales=key_scales,
        folded=folded,
    )


def forward_pass(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    options: ScanOptions,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns y, h, A and the trace, which is empty unless asked for."""
    compiled = kernels()
    steps, batch, size = drive.shape
    plan = layout((steps, batch, size), options, gain is not None, A is not None, start is not None, traced)
    drive, weight_hh, h, start = drive.contiguous(), weight_hh.contiguous(), dense(h), dense(start)
    gain, shift, A = dense(gain), dense(shift), padded_matrix(A, plan.row)
    tables = decay_tables(options.decay, options.fast_lr, plan.longest)
    workspace, y, h_out = borrowed(plan.floats), borrowed(*drive.shape), borrowed(batch, size)
    A_out, memory = borrowed(batch, size, size), torch.empty(batch, 2, dtype=torch.int64)
    norms = 0 if gain is None else len(gain)
    problem = describe(drive.shape, plan, norms, options, tables, workspace, start is not None)._replace(
        drive=drive.data_ptr(),
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
        compiled.plan(steps, batch, address(start), A is not None, FOLD_EVERY, plan.limit, problem.marks)
    count = tasks(batch, plan.work)
    floats = forward_scratch(problem)
    scratch = borrowed(count, floats)

    def task(begin: int, end: int, which: int) -> None:
        compiled.forward(problem, begin, end, scratch.data_ptr() + 4 * floats * which)

    run(task, batch, count, (drive, weight_hh, gain, shift, h, A, memory, y, h_out, A_out, tables, workspace))
    return y, h_out, A_out, workspace if traced else drive.new_empty(0)


def backward_pass(
    dy: Tensor | None,
    dh_out: Tensor | None,
    dA_out: Tensor | None,
    y: Tensor,
    trace: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    options: ScanOptions,
    wants_A: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Returns the gradients at drive, weight_hh, h, A, gain and shift; None where there is no such input."""
    compiled = kernels()
    steps, batch, size = y.shape
    plan = layout((steps, batch, size), options, gain is not None, A is not None, start is not None, True)
    wants_A = wants_A and A is not None
    dy, dh_out, dA_out, h = dense(dy), dense(dh_out), dense(dA_out), dense(h)
    weight_hh, gain, A = weight_hh.contiguous(), dense(gain), padded_matrix(A, plan.row)
    tables = decay_tables(options.decay, options.fast_lr, plan.longest)
    norms = 0 if gain is None else len(gain)
    problem = describe(y.shape, plan, norms, options, tables, trace, start is not None)._replace(
        weight=weight_hh.data_ptr(), gain=address(gain), h=address(h), A=address(A), y=y.data_ptr()
    )
    count = tasks(batch, 2 * plan.work)
    matrices = plan.slots > 0 or A is not None or dA_out is not None
    slot = slot_layout(plan.row, options.inner_steps, plan.longest, plan.longest if matrices else 0, matrices)
    floats = backward_scratch(problem, slot)
    scratch = borrowed(count, floats)
    ddrive, dA = borrowed(*y.shape), borrowed(batch, size, size) if wants_A else None
    dh = None if h is None else y.new_empty(batch, size)
    dweight, dnorm = y.new_empty(count, size, size), y.new_empty(count, 2, norms, size)
    gradients = Gradients(
        y=address(dy),
        h_out=address(dh_out),
        A_out=address(dA_out),
        drive=ddrive.data_ptr(),
        h=address(dh),
        A_in=address(dA),
        weight=dweight.data_ptr(),
        norm=dnorm.data_ptr(),
    )

    def task(begin: int, end: int, which: int) -> None:
        compiled.backward(problem, gradients, slot, begin, end, which, scratch.data_ptr() + 4 * floats * which)

    read = (dy, dh_out, dA_out, trace, weight_hh, gain, h, A, y, tables)
    run(task, batch, count, (read, ddrive, dh, dA, dweight, dnorm))
    dweight, dnorm = (x[0] if count == 1 else x.sum(0) for x in (dweight, dnorm))
    dgain, dshift = dnorm.unbind() if norms else (None, None)
    return ddrive, dweight, dh, dA, dgain, dshift


@torch.library.custom_op("fwagents::fast_weight_scan", mutates_args=())
def _forward(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    inner_steps: int,
    decay: float,
    fast_lr: float,
    sustained: bool,
    normalize_storage: bool,
    norm_eps: float,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns y, h, A and the trace, which is empty unless asked for."""
    options = ScanOptions(inner_steps, decay, fast_lr, sustained, normalize_storage, norm_eps)
    return forward_pass(drive, weight_hh, h, A, start, gain, shift, options, traced)


@_forward.register_fake
def _(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    inner_steps: int,
    decay: float,
    fast_lr: float,
    sustained: bool,
    normalize_storage: bool,
    norm_eps: float,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps, batch, size = (int(n) for n in drive.shape)  # fixed: the trace's size follows from them
    options = ScanOptions(inner_steps, decay, fast_lr, sustained, normalize_storage, norm_eps)
    plan = layout((steps, batch, size), options, gain is not None, A is not None, start is not None, traced)
    A_out, trace = drive.new_empty(batch, size, size), drive.new_empty(plan.floats if traced else 0)
    return drive.new_empty(drive.shape), drive.new_empty(batch, size), A_out, trace


@torch.library.custom_op("fwagents::fast_weight_scan_backward", mutates_args=())
def _backward(
    dy: Tensor | None,
    dh_out: Tensor | None,
    dA_out: Tensor | None,
    y: Tensor,
    trace: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    inner_steps: int,
    decay: float,
    fast_lr: float,
    sustained: bool,
    normalize_storage: bool,
    norm_eps: float,
    wants_A: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients at drive, weight_hh, h, A, gain and shift; empty where there is none."""
    options = ScanOptions(inner_steps, decay, fast_lr, sustained, normalize_storage, norm_eps)
    found = backward_pass(dy, dh_out, dA_out, y, trace, weight_hh, h, A, start, gain, options, wants_A)
    ddrive, dweight, dh, dA, dgain, dshift = (y.new_empty(0) if x is None else x for x in found)
    return ddrive, dweight, dh, dA, dgain.clone(), dshift.clone()  # an operator's outputs share no memory


@_backward.register_fake
def _(
    dy: Tensor | None,
    dh_out: Tensor | None,
    dA_out: Tensor | None,
    y: Tensor,
    trace: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    inner_steps: int,
    decay: float,
    fast_lr: float,
    sustained: bool,
    normalize_storage: bool,
    norm_eps: float,
    wants_A: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(x: Tensor | None, wanted: bool = True) -> Tensor:
        return y.new_empty(0) if x is None or not wanted else y.new_empty(x.shape)

    return y.new_empty(y.shape), like(weight_hh), like(h), like(A, wants_A), like(gain), like(gain)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, _, trace = output
    ctx.save_for_backward(*inputs[:7], y, trace)
    ctx.direct = isinstance(inputs[7], ScanOptions)
    ctx.options = inputs[7] if ctx.direct else ScanOptions(*inputs[7:13])
    ctx.mark_non_differentiable(trace)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, y, trace = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    if torch.is_grad_enabled():
        found = _reference_gradients(inputs, wanted, gradients[:3], ctx.options)
    else:
        operator: Callable[..., Any] = backward_pass if ctx.direct else _backward
        options = (ctx.options,) if ctx.direct else ctx.options
        ddrive, dweight, dh, dA, dgain, dshift = operator(*gradients[:3], y, trace, *inputs[1:6], *options, wanted[3])
        by_input = (ddrive, dweight, dh, dA, None, dgain, dshift)
        found = tuple(x if wants else None for x, wants in zip(by_input, wanted, strict=False))
    return *found, *(None,) * (len(wanted) - len(found))


def _reference_gradients(
    inputs: list[Any], wanted: tuple[bool, ...], gradients: tuple[Tensor | None, ...], options: ScanOptions
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, by way of the reference."""
    drive, weight_hh, h, A, *rest = inputs
    outputs = matrix_form(drive, weight_hh, *zeros_for_none(drive, h, A), *rest, options)
    pairs = [(o, d) for o, d in zip(outputs, gradients, strict=True) if d is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            [x for x, wants in zip(inputs, wanted, strict=False) if wants and x is not None],
            [d for _, d in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if wants else None for wants in wanted[: len(inputs)])


_forward.register_autograd(_differentiate, setup_context=_save)


class _Scan(torch.autograd.Function):
    """The same operator without torch's dispatcher, which costs more than a small scan does."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = forward_pass(*inputs[:7], inputs[7], True)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(_differentiate)
