"""Random scans, and how far two sets of results are apart."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fwagents.kernels import ScanOptions, fast_weight_scan
from fwagents.kernels.cpu import memory


class Scan(NamedTuple):
    """Arguments of a scan, and gradients at its three results."""

    drive: Tensor
    weight_hh: Tensor
    h: Tensor | None
    A: Tensor | None
    start: Tensor | None
    gain: Tensor | None
    shift: Tensor | None
    weight_ih: Tensor | None
    bias: Tensor | None
    options: ScanOptions
    cotangents: tuple[Tensor, Tensor, Tensor]


def random_scan(T, B, R, options=None, *, norms=1, state=True, starts=0.0, width=0, seed=0) -> Scan:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    return Scan(
        normal(T, B, width or R),
        0.5 * normal(R, R) / R**0.5,
        normal(B, R) if state else None,
        0.3 * normal(B, R, R) / R if state else None,
        torch.rand(T, B, generator=draw) < starts if starts else None,
        1 + 0.1 * normal(norms, R) if norms else None,
        0.1 * normal(norms, R) if norms else None,
        normal(R, width) / width**0.5 if width else None,
        0.1 * normal(R) if width else None,
        ScanOptions() if options is None else options,
        (normal(T, B, R), normal(B, R), normal(B, R, R)),
    )


def poison(monkeypatch) -> None:
    """Fill fresh memory with NaN, so that nothing can be right because it happened to be zero."""

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
    """Outputs, final state and every gradient, by name."""
    inputs = {
        name: x.to(device, dtype).requires_grad_()
        for name, x in scan._asdict().items()
        if name not in ("start", "options", "cotangents") and x is not None
    }
    arguments = {"h": None, "A": None} | inputs
    start = None if scan.start is None else scan.start.to(device)
    out = fast_weight_scan(**arguments, start=start, options=scan.options, backend=backend)
    gradients = torch.autograd.grad(out, list(inputs.values()), [c.to(device, dtype) for c in scan.cotangents])
    return out._asdict() | {f"d{name}": g for name, g in zip(inputs, gradients, strict=True)}


def inner_steps_taken(scan: Scan, tolerance: float) -> Tensor:
    """How many each row takes at each step with another tolerance, by the reference in float64 [T, B]."""
    taken = torch.zeros(scan.drive.shape[:2], dtype=torch.int64)
    arguments = {
        name: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
        for name, x in scan._asdict().items()
        if name != "cotangents"
    }
    arguments["options"] = scan.options._replace(tolerance=tolerance)
    fast_weight_scan(**arguments, backend="torch", taken=taken)
    return taken


def distance(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """For each tensor its largest absolute error over its largest absolute value."""
    assert found.keys() == truth.keys()
    return {
        name: (
            (found[name].cpu().double() - x.cpu().double()).abs().max() / x.abs().max().clamp_min(1e-30).cpu()
        ).item()
        for name, x in truth.items()
    }


def nudged(scan: Scan) -> Scan:
    """The same scan with every float moved by about a rounding error."""
    draw = torch.Generator().manual_seed(1)

    def nudge(x):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return x.double() * (1 + 2e-7 * torch.randn(x.shape, generator=draw, dtype=torch.float64))

    return Scan(*(nudge(x) for x in scan))
