"""Batched products between the chunks of a scan on a GPU: they write keys into A and propagate gradients back.

A chunk is steps ``begin`` to ``begin + n``. ``opened`` [T, B] is the step at which the current episode of a row began,
-1 if it began before the scan; ``opened`` is None if no episode begins. Values of an episode that has ended are masked,
not multiplied by zero, because NaN times zero is NaN. ``fades`` [C] holds the decay of A after 0, 1, ... steps, up to
the length C of the longest chunk. ``opened`` and ``fades`` are computed once per pass, because kernel launches dominate
the time of a small batch.
"""

import torch
from torch import Tensor

from fwagents.kernels.reference import ScanOptions, key


def episodes(start: Tensor | None) -> Tensor | None:
    """Compute ``opened``, int32 [T, B], from the episode starts [T, B]."""
    if start is None:
        return None
    steps = torch.arange(len(start), dtype=torch.int32, device=start.device).unsqueeze(1)
    return torch.where(start, steps, -1).cummax(0).values


def fades(steps: int, options: ScanOptions, device: torch.device) -> Tensor:
    """Compute ``fades`` for chunks of at most ``steps`` steps."""
    return options.decay ** torch.arange(steps, dtype=torch.float32, device=device)


def folded(
    A: Tensor | None,
    y: Tensor,
    fades: Tensor,
    opened: Tensor | None,
    begin: int,
    options: ScanOptions,
    out: Tensor | None,
) -> Tensor:
    """Compute the A after a chunk, float32 [B, R, R], from the A before the chunk and the chunk's y [n, B, R]."""
    keys = _keys(y, opened, begin, options)
    weighted = (_rates(fades, len(y), options) * keys).permute(1, 2, 0)
    keys = keys.transpose(0, 1)
    if A is None:
        return torch.bmm(weighted, keys, out=out)
    A = _carried(A.float(), opened, begin, len(y))
    return torch.baddbmm(A, weighted, keys, beta=options.decay ** len(y), out=out)


def gradient_at_keys(
    dA: Tensor, y: Tensor, fades: Tensor, opened: Tensor | None, begin: int, options: ScanOptions
) -> Tensor:
    """Compute the gradient at a chunk's keys [n, B, R] from ``dA``, the gradient at the A after the chunk."""
    keys = _keys(y, opened, begin, options)
    found = torch.bmm(keys.transpose(0, 1), dA + dA.transpose(1, 2)).transpose(0, 1)
    found = found * _rates(fades, len(y), options)
    return _masked(found, _gone(opened, begin, len(y))).contiguous()


def gradient_at_A(
    dA: Tensor | None,
    reads: Tensor,
    inputs: Tensor,
    fades: Tensor,
    opened: Tensor | None,
    begin: int,
    options: ScanOptions,
) -> Tensor:
    """Compute the gradient at the A before a chunk from the gradient at the A after the chunk.

    Args:
        dA: gradient at the A after the chunk [B, R, R], or None for zero.
        reads: gradient at the result of each inner step's read [n, B, S, R].
        inputs: state with which each inner step reads, of the shape of ``reads``.
        fades: see the module's docstring.
        opened: see the module's docstring.
        begin: the chunk's first step.
        options: options of the scan.
    """
    n = len(reads)
    late = None if opened is None else opened[begin : begin + n] >= begin
    reads = _masked(reads * fades[:n].view(n, 1, 1, 1), late).transpose(0, 1).flatten(1, 2)
    inputs = _masked(inputs, late).transpose(0, 1).flatten(1, 2)
    if dA is None:
        return torch.bmm(reads.transpose(1, 2), inputs)
    return torch.baddbmm(_carried(dA, opened, begin, n), reads.transpose(1, 2), inputs, beta=options.decay**n)


def _keys(y: Tensor, opened: Tensor | None, begin: int, options: ScanOptions) -> Tensor:
    """Return the keys of a chunk, float32 [n, B, R], zero where the episode ends within the chunk."""
    return _masked(key(y.float(), options), _gone(opened, begin, len(y)))


def _rates(fades: Tensor, n: int, options: ScanOptions) -> Tensor:
    """Return the weight of each key in the A after a chunk of n steps [n, 1, 1]."""
    return (options.fast_lr * fades[:n].flip(0)).view(-1, 1, 1)


def _gone(opened: Tensor | None, begin: int, n: int) -> Tensor | None:
    """Return which steps of a chunk belong to an episode that ends within the chunk: bool [n, B]."""
    if opened is None:
        return None
    steps = torch.arange(begin, begin + n, dtype=torch.int32, device=opened.device)
    return steps.unsqueeze(1) < opened[begin + n - 1]


def _carried(A: Tensor, opened: Tensor | None, begin: int, n: int) -> Tensor:
    """Set A, or the gradient at A, to zero in rows in which an episode begins within the chunk."""
    return A if opened is None else _masked(A, opened[begin + n - 1] >= begin)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set x to zero where ``mask`` is true; the mask has the first dimensions of x."""
    return x if mask is None else x.masked_fill(mask.view(*mask.shape, *[1] * (x.dim() - mask.dim())), 0.0)
