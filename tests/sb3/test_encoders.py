"""Encoders: dense and sparse products give one linear layer and a ReLU; images against SB3's own nets."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fwagents.sb3.encoders import (
    FEWEST_ROWS,
    DenseExtractor,
    ImageExtractor,
    MultiInputExtractor,
    linear_of_sparse,
    nearly_all_zeros,
)


def screens(rows, nonzero, dtype=torch.float32):
    """Return screens [rows, 8, 12] with ``nonzero`` non-zero values in total."""
    generator = torch.Generator().manual_seed(nonzero)
    x = torch.zeros(rows * 96, dtype=dtype)
    x[torch.randperm(rows * 96, generator=generator)[:nonzero]] = torch.randn(nonzero, generator=generator, dtype=dtype)
    return x.view(rows, 8, 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nonzero", [0, 1, 300, FEWEST_ROWS * 96])
def test_the_sum_of_what_is_picked_is_the_product(nonzero, dtype):
    x = screens(FEWEST_ROWS, nonzero, dtype).flatten(1)
    layer = torch.nn.Linear(96, 5, dtype=dtype)
    expected = x @ layer.weight.T + layer.bias
    upstream = torch.randn(FEWEST_ROWS, 5, dtype=dtype)
    wanted = torch.autograd.grad(expected, (layer.weight, layer.bias), upstream)
    y = linear_of_sparse(x, layer)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, (layer.weight, layer.bias), upstream), wanted)
    # The rows need not be contiguous.
    torch.testing.assert_close(linear_of_sparse(x.T.contiguous().T, layer), expected)


@pytest.mark.parametrize("rows", [1, FEWEST_ROWS - 1, FEWEST_ROWS, 3 * FEWEST_ROWS])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_the_encoder(rows, share):
    encoder = DenseExtractor(spaces.Box(0, 1, (8, 12), np.float32), features_dim=7)
    x = screens(rows, int(rows * 96 * share))
    weight, bias = encoder.linear.weight, encoder.linear.bias
    expected = (x.flatten(1) @ weight.T + bias).clamp(min=0)
    wanted = torch.autograd.grad(expected.square().sum(), (weight, bias))
    y = encoder(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), (weight, bias)), wanted)


@pytest.mark.parametrize("rows", [1, FEWEST_ROWS])
def test_the_encoder_with_a_layer_norm(rows):
    encoder = DenseExtractor(spaces.Box(0, 1, (8, 12), np.float32), features_dim=7, layer_norm=True)
    x = screens(rows, rows)
    before = x.flatten(1).double() @ encoder.linear.weight.T.double() + encoder.linear.bias.double()
    centred = before - before.mean(1, keepdim=True)
    expected = (centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(encoder(x).double(), expected, rtol=1e-4, atol=1e-5)


def test_which_way():
    sparse = screens(FEWEST_ROWS, 200).flatten(1)
    assert nearly_all_zeros(sparse)
    assert not nearly_all_zeros(sparse[1:]), "too few rows"
    assert not nearly_all_zeros(torch.ones_like(sparse)), "too few zeros"
    assert not nearly_all_zeros(sparse.clone().requires_grad_()), "the gradient of the input is asked for"


def test_the_gradient_of_the_observation():
    encoder = DenseExtractor(spaces.Box(0, 1, (8, 12), np.float32), features_dim=7)
    x = screens(FEWEST_ROWS, 200).requires_grad_()
    y = encoder(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    expected = (y > 0).float() @ encoder.linear.weight
    torch.testing.assert_close(gradient.flatten(1), expected)


def test_an_image_goes_through_nature_cnn_where_it_fits():
    """The parts of a Dict equal those of SB3's own extractor, in the same order."""
    from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    ours, theirs = ImageExtractor(space), NatureCNN(space)
    ours.layers.load_state_dict(theirs.state_dict())
    image = torch.rand(3, 1, 36, 36)
    torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=0)
    both = spaces.Dict({"b": spaces.Box(-1, 1, (3,), np.float32), "a": space})
    ours, theirs = MultiInputExtractor(both), CombinedExtractor(both)
    ours.parts["a"].layers.load_state_dict(theirs.extractors["a"].state_dict())
    obs = {"b": torch.rand(3, 3), "a": image}
    torch.testing.assert_close(ours(obs), theirs(obs), rtol=0, atol=0)


def test_a_small_image_is_seen_whole():
    """Every pixel of every channel affects the features."""
    space = spaces.Box(0, 255, (3, 5, 7), np.uint8)
    x = torch.rand(1, 3, 5, 7, requires_grad=True)
    ImageExtractor(space, 64)(x).sum().backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize(
    "shape",
    [
        (3, 35, 35),
        (1, 8, 300),
        (3, 30, 400),
        (1, 16, 1024),
        (3, 210, 160),
        (3, 1000, 1000),
        (1, 1, 2000),
        (1, 36, 4000),
    ],
)
def test_the_encoder_of_an_image_is_bounded_whatever_its_sides(shape):
    """The linear layer has at most 64 * 400 * 512 weights, and every part of the image affects the features."""
    encoder = ImageExtractor(spaces.Box(0, 255, shape, np.uint8))
    assert sum(p.numel() for p in encoder.parameters()) <= 64 * 400 * 512 + 100_000
    x = torch.rand(1, *shape, requires_grad=True)
    y = encoder(x)
    assert y.shape == (1, 512)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    # NatureCNN's strides do not reach the last pixels of a side, as in SB3.
    height, width = (side - 8 if min(shape[1:]) >= 36 else side for side in shape[1:])
    assert (gradient[:, :, :height, :width] != 0).float().mean() > 0.9


def test_sb3_s_name_for_the_units_of_an_image():
    space = spaces.Dict({"eye": spaces.Box(0, 255, (3, 7, 7), np.uint8)})
    assert MultiInputExtractor(space, cnn_output_dim=19).features_dim == 19
