"""Cut a batch whose rows begin episodes in the middle into stretches without a reset."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Stretches share a batch if the shortest has at least this share of the longest one's length. More batches would mean
# less to compute, but more loops to run.
SHORTEST = 0.75

Integers = NDArray[np.intp]


class Group(NamedTuple):
    """n stretches that run side by side, for as many steps L as the longest of them.

    Attributes:
        steps: int64 [L * n], which steps of the flattened sequence [T * B] they take; a stretch that is over takes its
            own last step again and again.
        kept: int64, which of those L * n are no such repetition.
        rows: int64 [n], the row of the batch that each is part of.
        fresh: bool [n], True where it opens an episode; None if none does.
        last: True if these are the ends of their rows; then all are of length L.
    """

    steps: Tensor
    kept: Tensor
    rows: Tensor
    fresh: Tensor | None
    last: bool


def groups(start: Tensor) -> list[Group]:
    """Cut a batch at its episode starts, ``start`` bool [T, B] on any device."""
    fresh: NDArray[np.bool_] = start.cpu().numpy()
    begins = fresh.copy()
    begins[0] = True
    length, width = begins.shape
    rows, at = np.nonzero(begins.T)
    following = np.append(at[1:], 0)
    last = following <= at  # the next stretch is of another row
    lengths = np.where(last, length, following) - at
    cut = []
    for final in (False, True):
        some = np.flatnonzero(last == final)
        some = some[np.argsort(-lengths[some], kind="stable")]
        for members in _of_similar_length(some, lengths[some], 1.0 if final else SHORTEST):
            cut.append(_group(members, rows, at, lengths, fresh, width, final, start.device))
    return cut


def _of_similar_length(stretches: Integers, lengths: Integers, shortest: float) -> list[Integers]:
    """Stretches in order of falling length, divided so that each is at least ``shortest`` of its part's first."""
    parts = []
    while len(stretches):
        count = int((lengths >= shortest * lengths[0]).sum())
        parts.append(stretches[:count])
        stretches, lengths = stretches[count:], lengths[count:]
    return parts


def _group(
    members: Integers,
    rows: Integers,
    at: Integers,
    lengths: Integers,
    fresh: NDArray[np.bool_],
    width: int,
    last: bool,
    device: torch.device,
) -> Group:
    of, begin, ends = rows[members], at[members], lengths[members]
    offsets = np.arange(ends[0])[:, None]
    steps = (begin + np.minimum(offsets, ends - 1)) * width + of
    opens = fresh[begin, of]
    return Group(
        torch.from_numpy(steps.ravel()).to(device),
        torch.from_numpy(np.flatnonzero(offsets < ends)).to(device),
        torch.from_numpy(of).to(device),
        torch.from_numpy(opens).to(device) if opens.any() else None,
        last,
    )
