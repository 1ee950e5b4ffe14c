"""Random scans, and the distance between two sets of results."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fwagents.kernels import ScanInputs, ScanOptions, ScanResult, fast_weight_scan
from fwagents.kernels.cpu import memory


class Scan(NamedTuple):
    """A scan, and the gradients of its results."""

    inputs: ScanInputs
    options: ScanOptions
    cotangents: ScanResult


def random_scan(T, B, R, options=None, *, norms=1, state=True, starts=0.0, width=0, seed=0) -> Scan:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    inputs = ScanInputs(
        drive=normal(T, B, width or R),
        weight_hh=0.5 * normal(R, R) / R**0.5,
        h=normal(B, R) if state else None,
        A=0.3 * normal(B, R, R) / R if state else None,
        start=torch.rand(T, B, generator=draw) < starts if starts else None,
        gain=1 + 0.1 * normal(norms, R) if norms else None,
        shift=0.1 * normal(norms, R) if norms else None,
        weight_ih=normal(R, width) / width**0.5 if width else None,
        bias=0.1 * normal(R) if width else None,
    )
    cotangents = ScanResult(normal(T, B, R), normal(B, R), normal(B, R, R))
    return Scan(inputs, ScanOptions() if options is None else options, cotangents)


def changed(inputs: ScanInputs, change) -> ScanInputs:
    """Return the inputs with a function applied to each float tensor."""
    return ScanInputs(*(x if x is None or x.dtype == torch.bool else change(x) for x in inputs))


def poison(monkeypatch) -> None:
    """Fill fresh memory with NaN, so that no result is right because memory happened to be zero."""

    def filled(x):
        if isinstance(x, Tensor) and x.device.type != "meta":
            x.fill_(float("nan") if x.is_floating_point() else 99)
        elif isinstance(x, np.ndarray):
            x.fill(np.nan)
        return x

    names = [(torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"), (memory._Pool, "lend")]
    for owner, name in names:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, original=original, **k: filled(original(*a, **k)))


def results(scan: Scan, backend: str, dtype=torch.float32, device="cpu") -> dict[str, Tensor]:
    """Return outputs, final state and every gradient, by name."""
    inputs = changed(scan.inputs, lambda x: x.to(device, dtype).requires_grad_())
    if inputs.start is not None:
        inputs = inputs._replace(start=inputs.start.to(device))
    out = fast_weight_scan(inputs, scan.options, backend=backend)
    named = {name: x for name, x in inputs._asdict().items() if x is not None and x.requires_grad}
    gradients = torch.autograd.grad(out, list(named.values()), [c.to(device, dtype) for c in scan.cotangents])
    return out._asdict() | {f"d{name}": g for name, g in zip(named, gradients, strict=True)}


def inner_steps_taken(scan: Scan, tolerance: float) -> Tensor:
    """Return the numbers of inner steps [T, B] with another tolerance, by the reference in float64."""
    taken = torch.zeros(scan.inputs.drive.shape[:2], dtype=torch.int64)
    options = scan.options._replace(tolerance=tolerance)
    fast_weight_scan(changed(scan.inputs, Tensor.double), options, backend="torch", taken=taken)
    return taken


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch some threads while the block runs; the tests otherwise have one."""
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(1)


def with_nan(scan: Scan, step: int, row: int, end: int) -> Scan:
    """Return the scan with a NaN in its input at one step of a row, whose next episode begins at step ``end``."""
    drive, start = scan.inputs.drive.clone(), torch.zeros(scan.inputs.drive.shape[:2], dtype=torch.bool)
    drive[step, row, 3] = float("nan")
    start[end, row] = True
    return scan._replace(inputs=scan.inputs._replace(drive=drive, start=start))


def distance(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Return each tensor's largest absolute error over its largest absolute value."""
    assert found.keys() == truth.keys()
    return {
        name: (
            (found[name].cpu().double() - x.cpu().double()).abs().max() / x.abs().max().clamp_min(1e-30).cpu()
        ).item()
        for name, x in truth.items()
    }


def nudged(scan: Scan) -> Scan:
    """Return the scan with every float changed by about a rounding error."""
    draw = torch.Generator().manual_seed(1)

    def nudge(x):
        return x.double() * (1 + 2e-7 * torch.randn(x.shape, generator=draw, dtype=torch.float64))

    return scan._replace(inputs=changed(scan.inputs, nudge), cotangents=ScanResult(*map(nudge, scan.cotangents)))
