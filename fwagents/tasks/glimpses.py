"""Image classification by glimpses, a fixed sequence of coarse and fine patches. Ba et al. (2016), section 4.2."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwagents.cores import FastWeights, MemoryCore
from fwagents.cores.base import positive_int
from fwagents.tasks.data import Examples
from fwagents.tasks.initialisation import uniform_by_outputs

QUADRANTS = 4
LOOKS = 6  # glimpses of each quadrant: one coarse, four fine, the coarse one again
GLIMPSES = QUADRANTS * LOOKS


def pixels(images: Tensor) -> Tensor:
    """Convert bytes [B, S, S] to numbers from 0 to 1."""
    return images.to(torch.get_default_dtype()) / 255


def glimpses(images: Tensor) -> Tensor:
    """Return the 24 glimpses of images [B, 4 p, 4 p], each a patch of p x p: [24, B, p * p].

    The quadrants of the image follow each other row by row. The glimpses of a quadrant are the whole quadrant,
    averaged over 2 x 2 pixels; its own four quadrants, row by row; and the whole quadrant again.

    Models compute the glimpses batch by batch. A batch of 128 takes 0.2 ms longer than with stored glimpses, but the
    data set stays in bytes: 43 MB instead of 260 MB for MNIST.
    """
    B, side, _ = images.shape
    p = side // QUADRANTS
    x = pixels(images)
    # The view splits image rows into quadrant, half of the quadrant, and row of the patch, and columns likewise.
    fine = x.view(B, 2, 2, p, 2, 2, p).permute(1, 4, 2, 5, 0, 3, 6).reshape(QUADRANTS, 4, B, p * p)
    halved = F.avg_pool2d(x.unsqueeze(1), 2)
    coarse = halved.view(B, 2, p, 2, p).permute(1, 3, 0, 2, 4).reshape(QUADRANTS, 1, B, p * p)
    return torch.cat([coarse, fine, coarse], dim=1).flatten(0, 1)


def boxes(side: int) -> list[tuple[int, int, int]]:
    """Return the row, column and side of each glimpse's patch, in pixels, in an image of side x side."""
    half, quarter = side // 2, side // QUADRANTS
    found = []
    for row, column in ((0, 0), (0, half), (half, 0), (half, half)):
        coarse = (row, column, half)
        fine = [(row + down, column + across, quarter) for down in (0, quarter) for across in (0, quarter)]
        found += [coarse, *fine, coarse]
    return found


class GlimpseModel(nn.Module):
    """Classifier that runs any core over the glimpses and computes scores from its last output.

    Args:
        core: core whose ``input_size`` is the number of pixels of a patch.
        classes: number of classes.
    """

    def __init__(self, core: MemoryCore[Any], classes: int = 10) -> None:
        super().__init__()
        patch_of(core)
        self.scores = nn.Linear(core.output_size, positive_int("classes", classes))
        self.apply(uniform_by_outputs)
        self.core = core  # set after ``apply``, since the core has drawn its own weights

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 [B, 4 p, 4 p] to unnormalised scores [B, classes]."""
        y, _ = self.core(glimpses(images))
        scores: Tensor = self.scores(y[-1])
        return scores


class MultiLevelModel(nn.Module):
    """The fast-weight model of Figure 3, with fixed steps at which it stores, clears and integrates.

    With the core's slow weights W and C, its bias b and its fast memory, and integration weights V; q is the quadrant,
    c its coarse patch and x_1 .. x_4 its fine ones::

        k_q = settle(W g_{q-1} + C c + b, nothing)          first look at the coarse patch; stored, then h is cleared
        f_1 = settle(           C x_1 + b, nothing)
        f_i = settle(W f_{i-1} + C x_i + b, nothing)         the fine patches, by slow weights
        g_q = settle(V f_4 + C c + b, k_1 .. k_q)           second look: recall and integrate
        scores = read-out of g_4,   g_0 = 0

    ``settle`` is the inner loop of the core (equation 5); its second argument is the content of the memory. The paper
    gives only the figure, and these choices are ours. Where only slow weights act, the memory is empty, so that the
    layer norm still applies. V enters the sustained boundary, and so the layer norm, as W does elsewhere. Stored states
    remain, and decay once a quadrant. The integrated state is not stored.

    The four chains of fine patches depend neither on each other nor on the memory, so they run in parallel.

    Args:
        core: core whose ``input_size`` is the number of pixels of a patch.
        classes: number of classes.

    Shapes:
        ``integration [R, R]`` (V), drawn uniformly from +-1/sqrt(R).
    """

    def __init__(self, core: FastWeights, classes: int = 10) -> None:
        super().__init__()
        patch_of(core)
        self.integration = nn.Parameter(torch.empty(core.hidden_size, core.hidden_size))
        bound = core.hidden_size**-0.5
        nn.init.uniform_(self.integration, -bound, bound)
        self.scores = nn.Linear(core.output_size, positive_int("classes", classes))
        self.apply(uniform_by_outputs)
        self.core = core  # set after ``apply``, since the core has drawn its own weights

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 [B, 4 p, 4 p] to unnormalised scores [B, classes]."""
        settle, W = self.core.settle, self.core.weight_hh
        drive = F.linear(glimpses(images), self.core.weight_ih, self.core.bias)
        coarse, *fine, again = torch.unflatten(drive, 0, (QUADRANTS, LOOKS)).unbind(1)  # each [4, B, R]
        f = settle(fine[0].flatten(0, 1))
        for x in fine[1:]:
            f = settle(F.linear(f, W) + x.flatten(0, 1))
        integrated = F.linear(f, self.integration).view_as(again) + again
        stored: list[Tensor] = []
        g = torch.zeros_like(coarse[0])
        for q in range(QUADRANTS):
            stored.append(settle(F.linear(g, W) + coarse[q]))
            g = settle(integrated[q], torch.stack(stored))
        scores: Tensor = self.scores(g)
        return scores


class PatchConvNet(nn.Module):
    """Three convolutional layers on the same patches, with equal numbers of features.

    The first layer has separate filters for fine and for coarse patches. The second joins the four fine patches and
    the coarse patch of each quadrant. The third joins the four quadrants. The paper says only "ConvNet".

    Args:
        patch_size: p.
        features: number of features of every layer.
        classes: number of classes.
    """

    def __init__(self, patch_size: int, features: int, classes: int = 10) -> None:
        super().__init__()
        patch_size, features = positive_int("patch_size", patch_size), positive_int("features", features)
        self.fine = nn.Conv2d(1, features, patch_size, stride=patch_size)
        self.coarse = nn.Conv2d(1, features, patch_size, stride=patch_size)
        self.quadrants = nn.Conv2d(features, features, 2, stride=2)
        self.context = nn.Conv2d(features, features, 1, bias=False)
        self.whole = nn.Conv2d(features, features, 2)
        self.scores = nn.Linear(features, positive_int("classes", classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 [B, 4 p, 4 p] to unnormalised scores [B, classes]."""
        x = pixels(images).unsqueeze(1)
        fine = torch.relu(self.fine(x))
        coarse = torch.relu(self.coarse(F.avg_pool2d(x, 2)))
        joined = torch.relu(self.whole(torch.relu(self.quadrants(fine) + self.context(coarse))))
        scores: Tensor = self.scores(joined.flatten(1))
        return scores


def patch_of(core: MemoryCore[Any]) -> int:
    """Return p of a core that reads patches of p x p.

    Raises:
        ValueError: the core's ``input_size`` is not a square.
    """
    p = math.isqrt(core.input_size)
    if p * p != core.input_size:
        raise ValueError(f"core.input_size is {core.input_size}, expected the pixels of a square patch")
    return p


def hold_out(examples: Examples, validation_images: int) -> tuple[Examples, Examples]:
    """Split examples into training and ``validation_images`` validation examples, at random with a fixed seed.

    Raises:
        ValueError: one of the splits would be empty.
    """
    images, labels = examples
    count = len(labels)
    if not 1 <= validation_images < count:
        raise ValueError(
            f"validation_images is {validation_images}, expected 1 to {count - 1}: there are {count} images"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    held, kept = order[:validation_images], order[validation_images:]
    return Examples(images[kept], labels[kept]), Examples(images[held], labels[held])
