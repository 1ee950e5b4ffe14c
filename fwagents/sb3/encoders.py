"""What turns an observation into the memory's input."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from fwagents.cores.base import positive_int

# Below these a product that skips the zeros costs more to prepare than it saves.
FEWEST_ROWS = 128
MOST_NONZERO = 1 / 16


class DenseExtractor(BaseFeaturesExtractor):
    """The encoder of the paper's agents (section 4.4): the flattened observation, one linear layer, ReLU.

    Screens that are nearly all zeros, such as Catch's, cost only what is on them.

    Args:
        observation_space: any space that SB3 flattens.
        features_dim: units.
    """

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int = 128) -> None:
        super().__init__(observation_space, positive_int("features_dim", features_dim))
        self.linear = nn.Linear(get_flattened_obs_dim(observation_space), features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, ...] -> [B, features_dim]."""
        x = observations.flatten(1)
        y = linear_of_sparse(x, self.linear) if nearly_all_zeros(x) else self.linear(x)
        return F.relu(y, inplace=True)


def nearly_all_zeros(x: Tensor) -> bool:
    """Whether :func:`linear_of_sparse` is worth it for x [B, D], judged by its first rows; never while compiling."""
    if torch.compiler.is_compiling():  # first: to ask for the length would fix it
        return False
    if len(x) < FEWEST_ROWS or x.device.type != "cpu" or x.requires_grad:
        return False
    first = x[:FEWEST_ROWS]
    return int(first.count_nonzero()) <= MOST_NONZERO * first.numel()


def linear_of_sparse(x: Tensor, linear: nn.Linear) -> Tensor:
    """``linear(x)``, up to rounding: the sum of the weights that x picks. For x on the CPU that needs no gradient.

    Args:
        x: [B, D], mostly zeros.
        linear: D inputs, R units.

    Returns:
        [B, R].
    """
    rows, inputs = x.shape
    # NumPy finds what is not zero an order of magnitude sooner than torch.
    picked = torch.from_numpy(np.flatnonzero(x.numpy() != 0))
    begins = torch.searchsorted(picked, torch.arange(0, rows * inputs, inputs))
    weights = linear.weight.t().contiguous()
    values = x.reshape(-1)[picked]
    return F.embedding_bag(picked % inputs, weights, begins, mode="sum", per_sample_weights=values) + linear.bias
