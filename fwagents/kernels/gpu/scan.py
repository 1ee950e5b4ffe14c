"""The forward and the backward pass on a GPU, in Triton: chunks of the scan, and matrix products between chunks.

``docs/performance.md`` says which values stay on chip, and gives speeds. Triton is imported, and the kernels are
compiled or loaded, when a scan first runs.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.kernels.gpu.folds import episodes, fades, folded, gradient_at_A, gradient_at_keys
from fwagents.kernels.operator import CompiledScan
from fwagents.kernels.reference import ScanInputs, ScanOptions, ScanResult, matrix_form
from fwagents.kernels.tensors import dense, transformed

LARGEST = 512  # R; the keys of a larger one do not fit on chip
DTYPES = (torch.float32, torch.bfloat16)
INSTALLED = importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Return whether Triton runs its kernels on the CPU, which TRITON_INTERPRET=1 at its import makes it do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def covers(inputs: ScanInputs) -> bool:
    """Return whether the Triton scan can run: all float32 or all bfloat16, on one GPU, with R up to ``LARGEST``."""
    drive = inputs.drive
    if transformed() or not INSTALLED or len(inputs.weight_hh) > LARGEST:
        return False
    if drive.dtype not in DTYPES or drive.device.type != ("cpu" if interpreted() else "cuda"):
        return False
    tensors = inputs._replace(start=None)
    return all(x is None or (x.dtype, x.device) == (drive.dtype, drive.device) for x in tensors)


class Plan(NamedTuple):
    """Launch parameters of the kernels.

    Attributes:
        chunk: largest number of steps in a launch (C of the kernels).
        padded: R rounded up to a power of two (P of the kernels).
        block: rows of a matrix that are held at a time (K of the kernels); ``padded`` for all rows.
        warps: number of warps of a program.
    """

    chunk: int
    padded: int
    block: int
    warps: int


@lru_cache(maxsize=256)
def plan(steps: int, size: int) -> Plan:
    """Choose launch parameters for T steps of R units, the fastest of about thirty candidates on an H100."""
    padded = max(16, _power_of_two(size))
    chunk = min(64, 8192 // padded, max(16, _power_of_two(steps)))
    return Plan(chunk, padded, padded if padded <= 128 else 32, min(8, max(1, padded // 32)))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _shapes(shape: tuple[int, int, int], options: ScanOptions, norms: int) -> list[tuple[int, ...]]:
    """Return the shapes of a trace's parts: A after each chunk but the last, then the kernels' ``inputs``, ``normed``,
    ``scales`` and ``taken``."""
    steps, batch, size = shape
    chunks = -(-steps // plan(steps, size).chunk)
    reads = (steps, batch, options.inner_steps)
    return [
        (chunks - 1, batch, size, size),
        (*reads, size),
        (*reads, size if norms else 0),
        reads if norms else (0,),
        (0,) if options.tolerance is None else (steps, batch),
    ]


def _aligned(floats: int) -> int:
    return -(-floats // 32) * 32


def sizes(inputs: ScanInputs, options: ScanOptions) -> tuple[list[tuple[int, ...]], int]:
    """Return the shapes of y, h and A, and the number of floats in a trace."""
    _, batch, size = shape = _shape(inputs)
    return [shape, (batch, size), (batch, size, size)], _trace_floats(shape, options, _norms(inputs))


def _shape(inputs: ScanInputs) -> tuple[int, int, int]:
    """Return T, B and R."""
    steps, batch, _ = inputs.drive.shape
    return int(steps), int(batch), len(inputs.weight_hh)


def _norms(inputs: ScanInputs) -> int:
    """Return the number of layer-norm rows."""
    return 0 if inputs.gain is None else len(inputs.gain)


def _trace_floats(shape: tuple[int, int, int], options: ScanOptions, norms: int) -> int:
    return sum(_aligned(math.prod(part)) for part in _shapes(shape, options, norms))


def _parts(trace: Tensor, shape: tuple[int, int, int], options: ScanOptions, norms: int) -> list[Tensor | None]:
    """Return the parts of a trace as views, None for an empty part."""
    shapes = _shapes(shape, options, norms)
    if not len(trace):
        return [None] * len(shapes)
    flat = torch.split(trace, [_aligned(math.prod(part)) for part in shapes])
    return [x[: math.prod(part)].view(part) if len(x) else None for x, part in zip(flat, shapes, strict=True)]


def forward_pass(inputs: ScanInputs, options: ScanOptions, traced: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, h, A and the trace, which is empty unless ``traced``."""
    drive, weight_hh, h, A, start, gain, shift, weight_ih, bias = inputs
    drive = (drive if weight_ih is None else F.linear(drive, weight_ih, bias)).contiguous()
    weight_hh, h, gain, shift = weight_hh.contiguous(), dense(h), dense(gain), dense(shift)
    shape = steps, _, size = _shape(inputs)
    norms = _norms(inputs)
    trace = drive.new_empty(_trace_floats(shape, options, norms) if traced else 0, dtype=torch.float32)
    memories, reads, *rest = _parts(trace, shape, options, norms)
    if reads is not None and options.tolerance is not None:
        reads.zero_()  # steps not taken must add zero to the product that gives the gradient at A
    opened, left = episodes(start), fades(plan(steps, size).chunk, options, drive.device)
    y = torch.empty_like(drive)
    memory, turned = dense(A), weight_hh.t().contiguous()
    for number, (begin, end) in enumerate(_chunks(steps, size)):
        _launch(
            "forward",
            shape,
            options,
            norms,
            *_steps(begin, end, drive),
            turned,
            h,
            # The scan adds only symmetric matrices to A, but the initial A need not be symmetric.
            memory if A is None or memory is None else memory.mT.contiguous(),
            *_steps(begin, end, opened),
            gain,
            shift,
            *_steps(begin, end, y, reads, *rest),
            begin=begin,
            steps=end - begin,
            norm_eps=options.norm_eps,
            tolerance=options.tolerance,
        )
        h = y[end - 1]
        out = None if memories is None or end == steps else memories[number]
        memory = folded(memory, y[begin:end], left, opened, begin, options, out)
    return y, y[-1].clone(), memory.to(y.dtype), trace  # type: ignore[union-attr]  # there is a chunk


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
    drive, weight_hh, h, A, start, gain, _, weight_ih, _ = inputs
    (y,), (dy, dh_out, dA_out), wants = kept, gradients, ScanInputs(*wanted)  # type: ignore[arg-type]
    dy, weight_hh, gain = dense(dy), weight_hh.contiguous(), dense(gain)
    shape = steps, batch, size = _shape(inputs)
    norms = _norms(inputs)
    memories, before, *rest = _parts(trace, shape, options, norms)
    opened, left = episodes(start), fades(plan(steps, size).chunk, options, y.device)
    dz = torch.empty_like(y)
    dh, dA = dense(dh_out), None if dA_out is None else dA_out.float()
    chunks = _chunks(steps, size)
    dnorm = trace.new_empty(len(chunks), batch, 2, norms, size) if norms else None
    for number, (begin, end) in reversed(list(enumerate(chunks))):
        reads = None
        if number or (wants.A and A is not None):
            new = trace.new_empty if options.tolerance is None else trace.new_zeros
            reads = new(end - begin, batch, options.inner_steps, size)
        later, dh = dh, trace.new_empty(batch, size)
        _launch(
            "backward",
            shape,
            options,
            norms,
            *_steps(begin, end, dy),
            later,
            None if dA is None else gradient_at_keys(dA, y[begin:end], left, opened, begin, options),
            weight_hh,
            memories[number - 1] if number and memories is not None else dense(A),
            *_steps(begin, end, opened),
            gain,
            *_steps(begin, end, y, before, *rest, dz),
            dh,
            reads,
            None if dnorm is None else dnorm[number],
            begin=begin,
            steps=end - begin,
            N=_power_of_two(max(1, norms)),
        )
        if reads is not None and before is not None:
            dA = gradient_at_A(dA, reads, before[begin:end], left, opened, begin, options)
    flat = dz.flatten(0, 1)
    dweight = flat.t() @ _previous(y, h, start).flatten(0, 1)
    dgain, dshift = (None, None) if dnorm is None else dnorm.sum((0, 1)).to(y.dtype).unbind()
    dstate = (
        None if h is None or dh is None else dh.to(y.dtype),
        None if A is None or not wants.A or dA is None else dA.to(y.dtype),
    )
    if weight_ih is None:
        return [dz, dweight, *dstate, None, dgain, dshift, None, None]
    dx = dz @ weight_ih if wants.drive else None
    return [dx, dweight, *dstate, None, dgain, dshift, flat.t() @ drive.flatten(0, 1), flat.sum(0)]


def _chunks(steps: int, size: int) -> list[tuple[int, int]]:
    """Return the first step of each chunk, and the step after its last."""
    chunk = plan(steps, size).chunk
    return [(begin, min(begin + chunk, steps)) for begin in range(0, steps, chunk)]


def _steps(begin: int, end: int, *tensors: Tensor | None) -> list[Tensor | None]:
    """Return the steps ``begin`` to ``end`` of each tensor [T, ...]."""
    return [None if x is None else x[begin:end] for x in tensors]


def _previous(y: Tensor, h: Tensor | None, start: Tensor | None) -> Tensor:
    """Return the hidden state that W multiplies at each step [T, B, R]: the previous one, zero at an episode start."""
    states = torch.cat([torch.zeros_like(y[:1]) if h is None else h.unsqueeze(0), y[:-1]])
    return states if start is None else states.masked_fill(start.unsqueeze(2), 0.0)


def _launch(
    kernel: str, shape: tuple[int, int, int], options: ScanOptions, norms: int, *tensors: Tensor | None, **more: Any
) -> None:
    """Launch a kernel of ``fwagents.kernels.gpu.kernels``, a program for each row of the batch."""
    from fwagents.kernels.gpu import kernels

    steps, batch, size = shape
    how = plan(steps, size)
    launch: Any = getattr(kernels, kernel)[(batch,)]
    (device,) = {x.device for x in tensors if x is not None}
    with torch.cuda.device(device if device.type == "cuda" else -1):  # Triton launches on the current device
        launch(
            *tensors,
            batch=batch,
            log2_decay=math.log2(options.decay) if options.decay else -1e30,  # so 0 ** age is 0, and 0 ** 0 is 1
            fast_lr=options.fast_lr,
            S=options.inner_steps,
            NORMS=norms,
            SUSTAINED=options.sustained,
            NORMALIZED=options.normalize_storage,
            R=size,
            P=how.padded,
            C=how.chunk,
            K=how.block,
            num_warps=how.warps,
            num_stages=1,  # the kernels prefetch explicitly
            **more,
        )


def _as_given(run: Callable[..., Any]) -> Callable[..., Any]:
    """Run a pass without autocast, which would change the dtype that all tensors share."""

    def run_as_given(*arguments: Any) -> Any:
        with torch.autocast("cuda", enabled=False):
            return run(*arguments)

    return run_as_given


scan = CompiledScan(
    "fast_weight_scan_cuda",
    ScanInputs,
    ScanOptions,
    ScanResult,
    forward=_as_given(forward_pass),
    backward=_as_given(backward_pass),
    sizes=sizes,
    reference=matrix_form,
    kept=["y"],
)
