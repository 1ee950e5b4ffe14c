"""Data of a supervised task: inputs with their labels, in three splits."""

from typing import NamedTuple

from torch import Tensor


class Examples(NamedTuple):
    """Inputs [N, ...] and the class of each, int64 [N]."""

    inputs: Tensor
    labels: Tensor


class Splits(NamedTuple):
    """Examples for training, for the choice of weights, and for the final report."""

    train: Examples
    validation: Examples
    test: Examples
