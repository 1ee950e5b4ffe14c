"""The scan of ``fwagents.cores.FastWeights``, one function with several backends."""

import os

import torch
from torch import Tensor

from fwagents.kernels.cpu import scan as cpu_scan
from fwagents.kernels.gpu import scan as gpu_scan
from fwagents.kernels.reference import ScanInputs, ScanOptions, ScanResult, attention_form, matrix_form

__all__ = ["BACKENDS", "ScanInputs", "ScanOptions", "ScanResult", "check_backend", "chosen_backend", "fast_weight_scan"]

DEFAULT_OPTIONS = ScanOptions()
BACKENDS = ("auto", "numba", "triton", "torch", "attention")
COMPILED = {"numba": cpu_scan, "triton": gpu_scan}  # each has ``covers`` and ``scan``
VARIABLE = "FWAGENTS_BACKEND"


def check_backend(backend: str) -> str:
    """Return ``backend``; raise ValueError if it is not in ``BACKENDS``."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    return backend


def chosen_backend(backend: str, device: str = "cpu") -> str:
    """Resolve ``backend`` for a type of device.

    "auto" stands for the environment variable FWAGENTS_BACKEND if it is set, else for the device's compiled backend.
    """
    if check_backend(backend) != "auto":
        return backend
    backend = os.environ.get(VARIABLE) or "auto"
    if backend not in BACKENDS:
        raise ValueError(f"{VARIABLE} is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        return "triton" if device == "cuda" else "numba"
    return backend


def _check(inputs: ScanInputs, options: ScanOptions, taken: Tensor | None) -> None:
    """Check shapes and dtypes, since a compiled scan reads raw addresses without any check."""
    drive, gain, start, weight_ih = inputs.drive, inputs.gain, inputs.start, inputs.weight_ih
    for first, second in (("weight_ih", "bias"), ("gain", "shift")):
        if (getattr(inputs, first) is None) != (getattr(inputs, second) is None):
            raise ValueError(f"{first} and {second} go together, expected both or neither")
    if drive.dim() != 3 or 0 in drive.shape:
        raise ValueError(f"drive has shape {tuple(drive.shape)}, expected three dimensions, none of them 0")
    T, B, D = drive.shape
    R = len(inputs.weight_hh)
    rows = 1 if gain is None else len(gain)
    if rows not in (1, options.inner_steps):
        raise ValueError(f"gain has {rows} rows, expected 1 or inner_steps, which is {options.inner_steps}")
    shapes = {
        "drive": (T, B, R if weight_ih is None else D),
        "weight_hh": (R, R),
        "h": (B, R),
        "A": (B, R, R),
        "start": (T, B),
        "gain": (rows, R),
        "shift": (rows, R),
        "weight_ih": (R, D),
        "bias": (R,),
        "taken": (T, B),
    }
    for name, x in (*inputs._asdict().items(), ("taken", taken)):
        if x is not None and x.shape != shapes[name]:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(map(int, shapes[name]))}")
    if start is not None and (start.dtype != torch.bool or start.device != drive.device):
        raise ValueError(f"start is {start.dtype} on {start.device}, expected torch.bool on {drive.device}")


def fast_weight_scan(
    inputs: ScanInputs,
    options: ScanOptions = DEFAULT_OPTIONS,
    *,
    backend: str = "auto",
    taken: Tensor | None = None,
) -> ScanResult:
    """Run the fast-weight recurrence of Ba et al. (2016), equations 1-5, over a sequence.

    Args:
        inputs: see ``ScanInputs``.
        options: see ``ScanOptions``.
        backend: "numba" is the compiled scan for float32 on the CPU; "triton" is the compiled scan for float32 and
            bfloat16 on a GPU, with R up to 512; "torch" is the matrix form and "attention" the attention form, both
            eager; "auto" is the compiled scan for the device, unless the environment variable FWAGENTS_BACKEND names
            another backend. Cases that a compiled scan does not cover (another dtype or device, derivatives of
            derivatives, ``taken``) use the matrix form.
        taken: int64 [T, B]; if ``options`` has a tolerance, the scan adds each row's number of inner steps to it.

    Returns:
        ``(y [T, B, R], h [B, R], A [B, R, R])``, differentiable in every tensor argument.

    Raises:
        ValueError: a shape, or the dtype or device of ``start``, is not as above; the message names it.
    """
    _check(inputs, options, taken)
    backend = chosen_backend(backend, inputs.drive.device.type)
    compiled = COMPILED.get(backend)
    if compiled and taken is None and compiled.covers(inputs):
        result: ScanResult = compiled.scan(inputs, options)
        return result
    return (attention_form if backend == "attention" else matrix_form)(inputs, options, taken)
