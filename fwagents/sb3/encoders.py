"""What turns an observation into the memory's input."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from fwagents.cores.base import positive_int

# Below these a product that skips the zeros costs more to prepare than it saves.
FEWEST_ROWS = 128
MOST_NONZERO = 1 / 16
LEAST_OF_NATURE = 36  # pixels a side: with fewer, nothing is left after NatureCNN's strides


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


class ImageExtractor(BaseFeaturesExtractor):
    """Convolutions over an image of any size, then a linear layer and ReLU.

    SB3's ``NatureCNN`` from 36 pixels a side, which is the least that it takes; below, as in grid worlds, two layers of
    3x3 that keep every pixel.

    Args:
        observation_space: Box [C, H, W], uint8 unless ``normalized_image``.
        features_dim: units.
        normalized_image: whether the image is in [0, 1] already.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 512, normalized_image: bool = False) -> None:
        super().__init__(observation_space, positive_int("features_dim", features_dim))
        channels, height, width = observation_space.shape
        self.layers: nn.Module
        if min(height, width) >= LEAST_OF_NATURE:
            self.layers = NatureCNN(observation_space, features_dim, normalized_image)
        else:
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * height * width, features_dim),
                nn.ReLU(),
            )

    def forward(self, observations: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, features_dim]."""
        features: Tensor = self.layers(observations)
        return features


class MultiInputExtractor(BaseFeaturesExtractor):
    """The parts of a Dict observation side by side: images through an :class:`ImageExtractor`, all else flattened.

    Args:
        observation_space: Dict of spaces that SB3 flattens, and images.
        image_dim: units for each image.
        normalized_image: whether images are in [0, 1] already.
    """

    def __init__(self, observation_space: spaces.Dict, image_dim: int = 256, normalized_image: bool = False) -> None:
        parts: dict[str, nn.Module] = {}
        width = 0
        for name, space in observation_space.items():
            if isinstance(space, spaces.Box) and is_image_space(space, normalized_image=normalized_image):
                parts[name] = ImageExtractor(space, image_dim, normalized_image)
                width += image_dim
            else:
                parts[name] = nn.Flatten()
                width += get_flattened_obs_dim(space)
        super().__init__(observation_space, width)
        self.parts = nn.ModuleDict(parts)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Each [B, ...] -> [B, features_dim]."""
        return torch.cat([part(observations[name]) for name, part in self.parts.items()], 1)


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
