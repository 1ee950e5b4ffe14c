"""The scan behind :class:`fwagents.cores.FastWeights`: one function, several backends."""

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.kernels import operator
from fwagents.kernels.reference import ScanOptions, ScanResult, attention_form, matrix_form, zeros_for_none

__all__ = ["BACKENDS", "ScanOptions", "ScanResult", "check_backend", "chosen_backend", "fast_weight_scan"]

DEFAULT_OPTIONS = ScanOptions()
BACKENDS = ("auto", "numba", "triton", "torch", "attention")
VARIABLE = "FWAGENTS_BACKEND"


def check_backend(backend: str) -> str:
    """Return ``backend``; ValueError if it is none of ``BACKENDS``."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    return backend


def chosen_backend(backend: str, device: str = "cpu") -> str:
    """What ``backend`` comes to on a type of device: for "auto" the environment variable FWAGENTS_BACKEND, else the
    compiled one."""
    if check_backend(backend) != "auto":
        return backend
    backend = os.environ.get(VARIABLE) or "auto"
    if backend not in BACKENDS:
        raise ValueError(f"{VARIABLE} is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        return "triton" if device == "cuda" else "numba"
    return backend


def _check(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    options: ScanOptions,
    weight_ih: Tensor | None,
    bias: Tensor | None,
    taken: Tensor | None,
) -> None:
    """The compiled scan follows raw addresses, so whatever reaches it must fit."""
    for name, pair in (("weight_ih and bias", (weight_ih, bias)), ("gain and shift", (gain, shift))):
        if (pair[0] is None) != (pair[1] is None):
            raise ValueError(f"{name} go together, expected both or neither")
    if drive.dim() != 3 or 0 in drive.shape:
        raise ValueError(f"drive has shape {tuple(drive.shape)}, expected three dimensions, none of them 0")
    T, B, D = drive.shape
    R = len(weight_hh)
    rows = 1 if gain is None else len(gain)
    if rows not in (1, options.inner_steps):
        raise ValueError(f"gain has {rows} rows, expected 1 or inner_steps, which is {options.inner_steps}")
    shapes = [
        ("drive", drive, (T, B, R if weight_ih is None else D)),
        ("weight_hh", weight_hh, (R, R)),
        ("h", h, (B, R)),
        ("A", A, (B, R, R)),
        ("start", start, (T, B)),
        ("gain", gain, (rows, R)),
        ("shift", shift, (rows, R)),
        ("weight_ih", weight_ih, (R, D)),
        ("bias", bias, (R,)),
        ("taken", taken, (T, B)),
    ]
    for name, x, shape in shapes:
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(map(int, shape))}")
    if start is not None and (start.dtype != torch.bool or start.device != drive.device):
        raise ValueError(f"start is {start.dtype} on {start.device}, expected torch.bool on {drive.device}")


def fast_weight_scan(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    A: Tensor | None,
    start: Tensor | None = None,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    options: ScanOptions = DEFAULT_OPTIONS,
    *,
    weight_ih: Tensor | None = None,
    bias: Tensor | None = None,
    backend: str = "auto",
    taken: Tensor | None = None,
) -> ScanResult:
    """Run the fast-weight recurrence of Ba et al. (2016), equations 1-5, over a sequence.

    Args:
        drive: input to each step before the recurrence, ``C x + b`` [T, B, R]; or x itself [T, B, D], with C and b
            in ``weight_ih`` and ``bias``.
        weight_hh: slow recurrent weights W [R, R].
        h: hidden state before the first step [B, R]; None is zero, and cheaper than zeros.
        A: fast weights before the first step, ``h`` already written into them [B, R, R]; None as for ``h``.
        start: True where a step opens an episode: h and A of that row are zero before it. Bool [T, B].
        gain: layer-norm gain, one row shared by the inner steps or one each [1 or S, R]; None for no layer norm.
        shift: layer-norm bias, as ``gain``.
        options: see :class:`ScanOptions`.
        weight_ih: C [R, D], where ``drive`` is x; None where it is not.
        bias: b [R], together with ``weight_ih``.
        backend: "numba" the compiled scan for float32 on the CPU; "triton" the one for float32 and bfloat16 on a GPU,
            with R up to 512; "torch" the matrix form and "attention" the attention form, both eager; "auto" the
            compiled scan for the device, unless the environment variable FWAGENTS_BACKEND names another. What a
            compiled scan does not cover (another dtype or device, derivatives of derivatives, ``taken``) goes to the
            matrix form.
        taken: where ``options`` has a tolerance, the inner steps that each row takes are added to it, int64 [T, B].

    Returns:
        ``(y [T, B, R], h [B, R], A [B, R, R])``, differentiable in every tensor argument.

    Raises:
        ValueError: a shape, or the dtype of ``start``, is not as above; the message names it.
    """
    _check(drive, weight_hh, h, A, start, gain, shift, options, weight_ih, bias, taken)
    backend = chosen_backend(backend, drive.device.type)
    compiled = operator.PASSES.get(backend)
    if compiled and taken is None and compiled.covers(drive, weight_hh, h, A, gain, shift, weight_ih, bias):
        return operator.scan(drive, weight_hh, h, A, start, gain, shift, weight_ih, bias, options, backend)
    if weight_ih is not None:
        drive = F.linear(drive, weight_ih, bias)
    scan = attention_form if backend == "attention" else matrix_form
    return scan(drive, weight_hh, *zeros_for_none(drive, h, A), start, gain, shift, options, taken)
