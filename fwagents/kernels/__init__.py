"""The scan behind :class:`fwagents.cores.FastWeights`: one function, several backends."""

from torch import Tensor

from fwagents.kernels.reference import ScanOptions, ScanResult, attention_form, matrix_form

__all__ = ["BACKENDS", "ScanOptions", "ScanResult", "check_backend", "fast_weight_scan"]

DEFAULT_OPTIONS = ScanOptions()
BACKENDS = ("auto", "torch", "attention")


def check_backend(backend: str) -> str:
    """Return ``backend``; ValueError if it is none of ``BACKENDS``."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    return backend


def fast_weight_scan(
    drive: Tensor,
    weight_hh: Tensor,
    h: Tensor,
    A: Tensor,
    start: Tensor | None = None,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    options: ScanOptions = DEFAULT_OPTIONS,
    *,
    backend: str = "auto",
) -> ScanResult:
    """Run the fast-weight recurrence of Ba et al. (2016), equations 1-5, over a sequence.

    Args:
        drive: input to each step before the recurrence, ``C x + bias`` [T, B, R].
        weight_hh: slow recurrent weights W [R, R].
        h: hidden state before the first step [B, R].
        A: fast weights before the first step, ``h`` already written into them [B, R, R].
        start: True where a step opens an episode: h and A of that row are zero before it. Bool [T, B].
        gain: layer-norm gain, one row shared by the inner steps or one each [1 or S, R]; None for no layer norm.
        shift: layer-norm bias, as ``gain``.
        options: see :class:`ScanOptions`.
        backend: "torch" the matrix form, "attention" the attention form, both eager; "auto" the fastest that covers
            the call.

    Returns:
        ``(y [T, B, R], h [B, R], A [B, R, R])``, differentiable in every tensor argument.
    """
    scan = attention_form if check_backend(backend) == "attention" else matrix_form
    return scan(drive, weight_hh, h, A, start, gain, shift, options)
