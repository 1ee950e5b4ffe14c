"""Batched products between the chunks of a scan on a GPU: they write keys into A and propagate gradients back.

A chunk is steps ``begin`` to ``begin + n``. ``opened`` [T, B] is the step at which the current episode of a row began,
-1 if it began before the scan; ``opened`` is None if no episode begins. Values of an episode that has ended are masked
and never multiplied by zero, because NaN times zero is NaN. ``fades`` [C] is the share of A that is left after
0, 1, ... steps, as many as the longest chunk has. Both are computed once per pass, because kernel launches dominate the
time of a small batch.
"""

import torch
from torch import Tensor

from fwagents.kernels.reference import ScanOptions, key


def episodes(start: Tensor | None) -> Tensor | None:
    """``opened`` for the episode starts [T, B], int32."""
    if start is None:
        return None
    steps = torch.arange(len(start), dtype=torch.int32, device=start.device).unsqueeze(1)
    return torch.where(start, steps, -1).cummax(0).values


def fades(steps: int, options: ScanOptions, device: torch.device) -> Tensor:
    """``fades`` for chunks of at most ``steps`` steps."""
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
    """A after a chunk, float32 [B, R, R], from the one before it and the chunk's y [n, B, R]."""
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
    """From the gradient at A after a chunk, that at the keys of the chunk [n, B, R]."""
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
    """The gradient at A before a chunk, from that at A after it.

    Args:
        dA: gradient at A after the chunk [B, R, R], or None for zero.
        reads: gradient at what each inner step read [n, B, S, R].
        inputs: what it read with, as ``reads``.
        fades: see above.
        opened: see above.
        begin: the chunk's first step.
        options: those of the scan.
    """
    n = len(reads)
    late = None if opened is None else opened[begin : begin + n] >= begin
    reads = _masked(reads * fades[:n].view(n, 1, 1, 1), late).transpose(0, 1).flatten(1, 2)
    inputs = _masked(inputs, late).transpose(0, 1).flatten(1, 2)
    if dA is None:
        return torch.bmm(reads.transpose(1, 2), inputs)
    return torch.baddbmm(_carried(dA, opened, begin, n), reads.transpose(1, 2), inputs, beta=options.decay**n)


def _keys(y: Tensor, opened: Tensor | None, begin: int, options: ScanOptions) -> Tensor:
    """The keys that a chunk leaves behind, float32, zero where their episode has ended [n, B, R]."""
    return _masked(key(y.float(), options), _gone(opened, begin, len(y)))


def _rates(fades: Tensor, n: int, options: ScanOptions) -> Tensor:
    """The weight of each key in A after a chunk of n steps [n, 1, 1]."""
    return (options.fast_lr * fades[:n].flip(0)).view(-1, 1, 1)


def _gone(opened: Tensor | None, begin: int, n: int) -> Tensor | None:
    """Which steps of a chunk are of an episode that has ended when the chunk has: bool [n, B]."""
    if opened is None:
        return None
    steps = torch.arange(begin, begin + n, dtype=torch.int32, device=opened.device)
    return steps.unsqueeze(1) < opened[begin + n - 1]


def _carried(A: Tensor, opened: Tensor | None, begin: int, n: int) -> Tensor:
    """A, or the gradient at it, zero in rows in which an episode begins within the chunk."""
    return A if opened is None else _masked(A, opened[begin + n - 1] >= begin)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x with zeros where the mask, of its first dimensions, is true."""
    return x if mask is None else x.masked_fill(mask.view(*mask.shape, *[1] * (x.dim() - mask.dim())), 0.0)
