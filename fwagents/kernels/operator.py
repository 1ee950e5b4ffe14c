"""The fused scan: the passes of a compiled backend as differentiable torch operators."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.kernels.cpu import scan as cpu
from fwagents.kernels.gpu import scan as gpu
from fwagents.kernels.reference import ScanOptions, ScanResult, matrix_form, zeros_for_none
from fwagents.kernels.tensors import float32_on_cpu, plain


class Passes(NamedTuple):
    """What a compiled backend is made of; see :mod:`fwagents.kernels.cpu.scan`."""

    covers: Callable[..., bool]
    forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor | None, ...]]
    trace_floats: Callable[..., int]


def as_given(run: Callable[..., Any]) -> Callable[..., Any]:
    """Without autocast, which would change the one dtype that the tensors have."""

    def run_as_given(*arguments: Any) -> Any:
        with torch.autocast("cuda", enabled=False):
            return run(*arguments)

    return run_as_given


PASSES = {
    "numba": Passes(float32_on_cpu, cpu.forward_pass, cpu.backward_pass, cpu.trace_floats),
    "triton": Passes(gpu.covers, as_given(gpu.forward_pass), as_given(gpu.backward_pass), gpu.trace_floats),
}


def scan(
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
    backend: str,
) -> ScanResult:
    """See :func:`fwagents.kernels.fast_weight_scan`; the backend is one of ``PASSES`` that covers the tensors."""
    if gain is None or shift is None:
        gain = shift = None
    inputs = (drive, weight_hh, h, A, start, gain, shift, weight_ih, bias)
    traced = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    if torch.compiler.is_compiling() or not all(map(plain, inputs)):
        y, h_out, A_out, _ = _forward(*inputs, *options, traced, backend)
    elif traced:
        y, h_out, A_out, _ = cast(Any, _Scan).apply(*inputs, options, backend)
    else:
        y, h_out, A_out, _ = PASSES[backend].forward(*inputs, options, False)
    return ScanResult(y, h_out, A_out)


@torch.library.custom_op("fwagents::fast_weight_scan", mutates_args=())
def _forward(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    weight_ih: Tensor | None,
    bias: Tensor | None,
    inner_steps: int,
    decay: float,
    fast_lr: float,
    sustained: bool,
    normalize_storage: bool,
    norm_eps: float,
    tolerance: float | None,
    traced: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns y, h, A and the trace, which is empty unless asked for."""
    options = ScanOptions(inner_steps, decay, fast_lr, sustained, normalize_storage, norm_eps, tolerance)
    return PASSES[backend].forward(drive, weight_hh, h, A, start, gain, shift, weight_ih, bias, options, traced)


# What stands in for an operator while compiling takes whatever it is given: the schema is the operator's.
@_forward.register_fake
def _(
    drive: Tensor, weight_hh: Tensor, h: Tensor | None, A: Tensor | None, start: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gain, _, _, _, *constants, traced, backend = rest
    steps, batch, size = map(int, (*drive.shape[:2], len(weight_hh)))  # fixed: the trace's size follows from them
    options = ScanOptions(*constants)
    norms, shape = 0 if gain is None else len(gain), (steps, batch, size)
    floats = PASSES[backend].trace_floats(shape, options, norms, A is not None, start is not None) if traced else 0
    A_out, trace = drive.new_empty(batch, size, size), drive.new_empty(floats, dtype=torch.float32)
    return drive.new_empty(steps, batch, size), drive.new_empty(batch, size), A_out, trace


@torch.library.custom_op("fwagents::fast_weight_scan_backward", mutates_args=())
def _backward(
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
    inner_steps: int,
    decay: float,
    fast_lr: float,
    sustained: bool,
    normalize_storage: bool,
    norm_eps: float,
    tolerance: float | None,
    wants_drive: bool,
    wants_A: bool,
    backend: str,
) -> list[Tensor]:
    """Returns the gradients at drive, weight_hh, h, A, gain, shift, weight_ih and bias; empty where there is none."""
    options = ScanOptions(inner_steps, decay, fast_lr, sustained, normalize_storage, norm_eps, tolerance)
    found = PASSES[backend].backward(
        dy, dh_out, dA_out, y, trace, drive, weight_hh, h, A, start, gain, weight_ih, options, wants_drive, wants_A
    )
    return [y.new_empty(0) if x is None else x.clone() for x in found]  # an operator's outputs share no memory


@_backward.register_fake
def _(
    dy: Tensor | None, dh_out: Tensor | None, dA_out: Tensor | None, y: Tensor, trace: Tensor, *rest: Any
) -> list[Tensor]:
    drive, weight_hh, h, A, _, gain, weight_ih, *_, wants_drive, wants_A, _ = rest

    def like(x: Tensor | None, wanted: bool = True) -> Tensor:
        return y.new_empty(0) if x is None or not wanted else y.new_empty(x.shape)

    bias = y.new_empty(0) if weight_ih is None else y.new_empty(len(weight_hh))
    ddrive = like(drive, wants_drive or weight_ih is None)
    return [ddrive, like(weight_hh), like(h), like(A, wants_A), like(gain), like(gain), like(weight_ih), bias]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, _, trace = output
    ctx.save_for_backward(*inputs[:9], y, trace)
    ctx.direct = isinstance(inputs[9], ScanOptions)
    ctx.options = inputs[9] if ctx.direct else ScanOptions(*inputs[9:-2])
    ctx.backend = inputs[-1]
    ctx.mark_non_differentiable(trace)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, y, trace = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    if torch.is_grad_enabled():
        found = _reference_gradients(inputs, wanted, gradients[:3], ctx.options)
    else:
        given = (*gradients[:3], y, trace, *inputs[:6], inputs[7])
        if ctx.direct:
            states = PASSES[ctx.backend].backward(*given, ctx.options, wanted[0], wanted[3])
        else:
            states = _backward(*given, *ctx.options, wanted[0], wanted[3], ctx.backend)
        by_input = (*states[:4], None, *states[4:])  # no gradient at start
        found = tuple(x if wants else None for x, wants in zip(by_input, wanted, strict=False))
    return *found, *(None,) * (len(wanted) - len(found))


def _reference_gradients(
    inputs: list[Any], wanted: tuple[bool, ...], gradients: tuple[Tensor | None, ...], options: ScanOptions
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, by way of the reference."""
    drive, weight_hh, h, A, start, gain, shift, weight_ih, bias = inputs
    if weight_ih is not None:
        drive = F.linear(drive, weight_ih, bias)
    outputs = matrix_form(drive, weight_hh, *zeros_for_none(drive, h, A), start, gain, shift, options)
    return differentiable(outputs, gradients, inputs, wanted)


def differentiable(
    outputs: Iterable[Tensor],
    gradients: Iterable[Tensor | None],
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients at the wanted inputs that can be differentiated again, None at the others."""
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
        *tensors, options, backend = inputs
        output = PASSES[backend].forward(*tensors, options, True)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(_differentiate)
