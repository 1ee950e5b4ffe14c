"""Data of a supervised task: inputs with their labels, in three splits."""

from typing import NamedTuple

from torch import Tensor


class Examples(NamedTuple):
    """Inputs [N, ...] and the class of each, int64 [N]."""

    inputs: Tensor
    labels: Tensor


class Splits(NamedTuple):
    """Examples to learn from, to choose by, and to report on once."""

    train: Examples
    validation: Examples
    test: Examples
