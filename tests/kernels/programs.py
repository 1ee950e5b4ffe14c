"""Random scans of the fast-weight programmers, and their results by name."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fwagents.kernels.cpu import programmer
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions, ProgramResult, loop_form


class ProgramScan(NamedTuple):
    """A scan, and the gradients of its results."""

    inputs: ProgramInputs
    options: ProgramOptions
    cotangents: ProgramResult


def random_program(
    T, B, D, H, options, *, conv=4, state=True, starts=0.0, mixed=True, begun=1000.0, seed=0
) -> ProgramScan:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    size = H // options.heads
    if options.every:
        options = options._replace(turns=tuple((1 / np.geomspace(2.5, 200, size // 2)).tolist()))
    width = 3 * H + options.gates * options.heads + (2 * H if mixed else 0)
    bias = 0.3 * normal(width)
    bias[3 * H + options.heads : 3 * H + options.gates * options.heads] += 2.0
    inputs = ProgramInputs(
        normal(T, B, D),
        normal(width, D) / D**0.5,
        bias,
        0.5 * normal(conv, 3 * H),
        normal(B, conv - 1, 3 * H) if state else None,
        0.3 * normal(B, options.heads, size, size) if state else None,
        (begun * torch.rand(B, 1, generator=draw)).floor() if state else None,
        torch.rand(T, B, generator=draw) < starts if starts else None,
        *((1 + 0.1 * normal(H), 0.1 * normal(H), normal(H, H) / H**0.5, 0.1 * normal(H)) if mixed else (None,) * 4),
    )
    if not options.delta and state:  # sums of keys are positive
        W = torch.cat([inputs.W, 1 + torch.rand(B, options.heads, 1, size, generator=draw)], 2)
        inputs = inputs._replace(W=W)
    extra = 0 if options.delta else 1
    shapes = (T, B, H), (B, conv - 1, 3 * H), (B, options.heads, size + extra, size), (B, 1)
    return ProgramScan(inputs, options, ProgramResult(*(normal(*shape) for shape in shapes)))


def program_results(scan: ProgramScan, run=programmer.scan, dtype=torch.float32) -> dict[str, Tensor]:
    """Return outputs, final state and every gradient, by name."""
    inputs = ProgramInputs(
        *(x if x is None or x.dtype == torch.bool else x.detach().to(dtype).requires_grad_() for x in scan.inputs)
    )
    out = run(inputs, scan.options)
    named = {name: x for name, x in inputs._asdict().items() if x is not None and x.requires_grad}
    pairs = [(o, d.to(dtype)) for o, d in zip(out, scan.cotangents, strict=True) if o.requires_grad]
    gradients = torch.autograd.grad(
        [o for o, _ in pairs], list(named.values()), [d for _, d in pairs], materialize_grads=True
    )
    return out._asdict() | {f"d{name}": g for name, g in zip(named, gradients, strict=True)}


def loop_results(scan: ProgramScan, dtype=torch.float64) -> dict[str, Tensor]:
    """Return the same results from the loop over steps."""
    return program_results(scan, loop_form, dtype)
