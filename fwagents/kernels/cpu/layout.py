"""Sizes of a scan and of the trace for its backward pass; they depend only on shapes and options."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fwagents.kernels.cpu.problem import GROUP, lanes, padded
from fwagents.kernels.reference import ScanOptions


def fold_every(size: int) -> int:
    """Return the number of keys between folds: more keys cost reads, fewer cost copies of A, which grow with R."""
    return 32 if size < 64 else 64


class Layout(NamedTuple):
    """Fold interval of a scan, and the sections of its workspace, in floats.

    Attributes:
        row: floats in a padded row.
        fold_every: keys between folds.
        limit: longest run of steps without an initial A that attends to its whole past.
        longest: longest history that can occur.
        slots: matrices A kept for each row of the batch.
        traced: whether the scan keeps a trace for the backward pass.
        work: approximate number of multiplications.
        sections: floats of keys, inputs, normed, scales, key scales, taken, folded and marks, see ``Problem``.
    """

    row: int
    fold_every: int
    limit: int
    longest: int
    slots: int
    traced: bool
    work: int
    sections: tuple[int, ...]

    @property
    def floats(self) -> int:
        """Number of floats in all sections."""
        return sum(self.sections)


@lru_cache(maxsize=256)
def layout(
    shape: tuple[int, int, int], options: ScanOptions, normed: bool, held: bool, marked: bool, traced: bool
) -> Layout:
    """Compute the layout for ``shape`` T, B, R, with or without layer norm, initial A, episode starts and trace."""
    steps, batch, size = shape
    inner = options.inner_steps
    row = padded(size)
    every = fold_every(size)
    limit = max(64, 2 * size)
    unfolded = every + every // 2
    slots = 0
    if steps > (unfolded if held else limit):
        slots = (steps - 1) // every if traced else 1
    work = steps * batch * size * (size + inner * min(steps, 2 * size))
    kept = batch * (steps if traced else 1)
    sections = (
        batch * (steps + GROUP) * row,
        kept * inner * row,
        kept * inner * row if normed else 0,
        kept * inner if normed else 0,
        kept if options.normalize_storage else 0,
        0 if options.tolerance is None else kept,
        batch * slots * row * row,
        -(-batch * steps // 4) if marked or slots else 0,
    )
    return Layout(row, every, limit, min(steps, max(limit, unfolded)), slots, traced, work, sections)


@lru_cache(maxsize=64)
def decay_tables(decay: float, fast_lr: float, longest: int) -> Tensor:
    """Return ``decay ** age`` for age 0 to ``longest``, then the weights of keys, oldest first, then zeros."""
    with torch.device("cpu"):
        powers = torch.tensor(decay, dtype=torch.float64) ** torch.arange(longest + 1, dtype=torch.float64)
        weights = (fast_lr * powers[:longest]).flip(0)
        return torch.cat([powers, weights, torch.zeros(2 * lanes(), dtype=torch.float64)]).float()
