"""Encoders: modules that turn an observation into the memory's input."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from fwagents.cores.base import boolean, positive_int

# With fewer rows, or a larger share of non-zeros, a product that skips the zeros costs more to prepare than it saves.
FEWEST_ROWS = 128
MOST_NONZERO = 1 / 16
LEAST_OF_NATURE = 36  # pixels a side: with fewer, nothing is left after NatureCNN's strides
MOST_PLACES = 400  # places of the convolutions' output above which it is average-pooled, as for 20 x 20 pixels


def encoder_for(space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    """Return the encoder that suits observations of a space."""
    if isinstance(space, spaces.Dict):
        return MultiInputExtractor
    return ImageExtractor if is_image_space(space) else DenseExtractor


class DenseExtractor(BaseFeaturesExtractor):
    """The encoder of the paper's agents (section 4.4): the flattened observation, one linear layer, ReLU.

    Screens that are nearly all zeros, such as Catch's, cost only what is on them.

    Args:
        observation_space: any space that SB3 flattens.
        features_dim: units.
        layer_norm: whether a layer norm stands between the linear layer and the ReLU.
    """

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int = 128, layer_norm: bool = False) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                f"the observation is a Dict of {', '.join(observation_space)}, which MemoryPolicy does not encode, "
                "expected MemoryMultiInputPolicy for it"
            )
        super().__init__(observation_space, positive_int("features_dim", features_dim))
        self.linear = nn.Linear(get_flattened_obs_dim(observation_space), features_dim)
        self.norm = nn.LayerNorm(features_dim) if boolean("layer_norm", layer_norm) else None

    def forward(self, observations: Tensor) -> Tensor:
        """[B, ...] -> [B, features_dim]."""
        x = observations.flatten(1)
        y = linear_of_sparse(x, self.linear) if nearly_all_zeros(x) else self.linear(x)
        return F.relu(y, inplace=True) if self.norm is None else F.relu(self.norm(y))


class ImageExtractor(BaseFeaturesExtractor):
    """Convolutions over an image of any size, then a linear layer and ReLU.

    Images of at least 36 pixels a side use the convolutions of SB3's ``NatureCNN``, which need that size. Smaller
    images, such as grid worlds, use two 3x3 layers that keep every pixel. If the output has more than 400 places, it is
    average-pooled to at most 400. The linear layer therefore has at most 64 * 400 * features_dim weights, 13 million by
    default, for every image size. An image of 84 x 84 pixels has 49 places.

    Args:
        observation_space: Box [C, H, W], uint8 unless ``normalized_image``.
        features_dim: units.
        normalized_image: whether the image is in [0, 1] already.

    Raises:
        ValueError: the observation is no image.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 512, normalized_image: bool = False) -> None:
        if not is_image_space(observation_space, check_channels=False, normalized_image=normalized_image):
            kind = "Box of three axes" if normalized_image else "Box of three axes, uint8 from 0 to 255"
            raise ValueError(
                f"the observation is {observation_space}, expected an image, a {kind}: "
                "MemoryPolicy takes vectors, MemoryMultiInputPolicy Dicts"
            )
        super().__init__(observation_space, positive_int("features_dim", features_dim))
        channels, height, width = observation_space.shape
        large = min(height, width) >= LEAST_OF_NATURE
        places = (_after_nature(height), _after_nature(width)) if large else (height, width)
        self.layers: nn.Module
        if large and places[0] * places[1] <= MOST_PLACES:
            self.layers = NatureCNN(observation_space, features_dim, normalized_image)
        else:
            pool = _pool(*places)
            left = math.ceil(places[0] / pool[0]) * math.ceil(places[1] / pool[1])
            self.layers = nn.Sequential(
                *(_nature(channels) if large else _three_by_three(channels)),
                *([] if pool == (1, 1) else [nn.AvgPool2d(pool, ceil_mode=True)]),
                nn.Flatten(),
                nn.Linear((64 if large else 32) * left, features_dim),
                nn.ReLU(),
            )

    def forward(self, observations: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, features_dim]."""
        features: Tensor = self.layers(observations)
        return features


def _three_by_three(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]


def _nature(channels: int) -> list[nn.Module]:
    """The convolutions of Mnih et al. (2015), Nature 518."""
    first, second, third = nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)
    return [first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU()]


def _after_nature(side: int) -> int:
    """Return the pixels of a side after the convolutions of ``_nature``."""
    return ((side - 8) // 4 - 3) // 2 - 1


def _pool(height: int, width: int) -> tuple[int, int]:
    """Return the height and width of the pooling window that leaves at most ``MOST_PLACES`` places."""
    down = across = 1
    while (rows := math.ceil(height / down)) * (columns := math.ceil(width / across)) > MOST_PLACES:
        down, across = (down + 1, across) if rows > columns else (down, across + 1)
    return down, across


class MultiInputExtractor(BaseFeaturesExtractor):
    """Concatenate the parts of a Dict observation: images through an ``ImageExtractor``, all others flattened.

    Args:
        observation_space: Dict of spaces that SB3 flattens, and images.
        cnn_output_dim: units for each image.
        normalized_image: whether images are in [0, 1] already.

    Raises:
        ValueError: the observation is not a Dict.
    """

    def __init__(
        self, observation_space: spaces.Dict, cnn_output_dim: int = 256, normalized_image: bool = False
    ) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise ValueError(
                f"the observation is {observation_space}, expected a Dict: MemoryPolicy takes vectors, "
                "MemoryCnnPolicy images"
            )
        parts: dict[str, nn.Module] = {}
        width = 0
        for name, space in observation_space.items():
            if isinstance(space, spaces.Box) and is_image_space(space, normalized_image=normalized_image):
                parts[name] = ImageExtractor(space, cnn_output_dim, normalized_image)
                width += cnn_output_dim
            else:
                parts[name] = nn.Flatten()
                width += int(get_flattened_obs_dim(space))
        super().__init__(observation_space, width)
        self.parts = nn.ModuleDict(parts)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Each [B, ...] -> [B, features_dim]."""
        return torch.cat([part(observations[name]) for name, part in self.parts.items()], 1)


def nearly_all_zeros(x: Tensor) -> bool:
    """Return whether ``linear_of_sparse`` pays for x [B, D], judged by its first rows; never while compiling."""
    if torch.compiler.is_compiling():  # checked first: len(x) would make the batch size a constant of the graph
        return False
    if len(x) < FEWEST_ROWS or x.device.type != "cpu" or x.requires_grad:
        return False
    first = x[:FEWEST_ROWS]
    return int(first.count_nonzero()) <= MOST_NONZERO * first.numel()


def linear_of_sparse(x: Tensor, linear: nn.Linear) -> Tensor:
    """Compute ``linear(x)``, up to rounding, from the non-zeros of x. For x on the CPU that needs no gradient.

    Args:
        x: [B, D], mostly zeros.
        linear: D inputs, R units.

    Returns:
        [B, R].
    """
    rows, inputs = x.shape
    # NumPy finds the non-zeros ten times faster than torch.
    picked = torch.from_numpy(np.flatnonzero(x.numpy() != 0))
    begins = torch.searchsorted(picked, torch.arange(0, rows * inputs, inputs))
    weights = linear.weight.t().contiguous()
    values = x.reshape(-1)[picked]
    return F.embedding_bag(picked % inputs, weights, begins, mode="sum", per_sample_weights=values) + linear.bias
