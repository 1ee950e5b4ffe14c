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
    """n stretches that run in parallel, for as many steps L as the longest has.

    Attributes:
        steps: int64 [L * n], indices of their steps in the flattened sequence [T * B]; a stretch that is over repeats
            its last step.
        kept: int64, indices of the L * n steps that are no repetition.
        rows: int64 [n], each stretch's row of the batch.
        fresh: bool [n], True where a stretch opens an episode; None if none does.
        last: True if the stretches end their rows; then all have length L.
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
    """Divide stretches, sorted by falling length, into parts whose lengths are at least ``shortest`` of the first."""
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
