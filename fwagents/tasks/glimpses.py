"""Images by glimpses: a fixed sequence of patches, coarse and fine. Ba et al. (2016), section 4.2."""

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
LOOKS = 6  # at each quadrant: coarse, four fine ones, coarse again
GLIMPSES = QUADRANTS * LOOKS


def pixels(images: Tensor) -> Tensor:
    """Bytes [B, S, S] as numbers from 0 to 1."""
    return images.to(torch.get_default_dtype()) / 255


def glimpses(images: Tensor) -> Tensor:
    """Return the 24 glimpses of images [B, 4 p, 4 p], each a patch of p x p: [24, B, p * p].

    The quadrants follow each other row by row. Each is seen as a whole, averaged over 2 x 2 pixels; then as its own
    four quadrants, row by row; then as a whole again.

    Models compute the glimpses batch by batch. A batch of 128 takes 0.2 ms longer than with stored glimpses, but the
    data set stays in bytes: 43 MB in place of 260 MB for MNIST.
    """
    B, side, _ = images.shape
    p = side // QUADRANTS
    x = pixels(images)
    # Image rows are quadrant, half of it, row of the patch; columns likewise.
    fine = x.view(B, 2, 2, p, 2, 2, p).permute(1, 4, 2, 5, 0, 3, 6).reshape(QUADRANTS, 4, B, p * p)
    halved = F.avg_pool2d(x.unsqueeze(1), 2)
    coarse = halved.view(B, 2, p, 2, p).permute(1, 3, 0, 2, 4).reshape(QUADRANTS, 1, B, p * p)
    return torch.cat([coarse, fine, coarse], dim=1).flatten(0, 1)


def boxes(side: int) -> list[tuple[int, int, int]]:
    """Where in an image of side x side each glimpse is: row, column and side of its patch, in pixels."""
    half, quarter = side // 2, side // QUADRANTS
    found = []
    for row, column in ((0, 0), (0, half), (half, 0), (half, half)):
        coarse = (row, column, half)
        fine = [(row + down, column + across, quarter) for down in (0, quarter) for across in (0, quarter)]
        found += [coarse, *fine, coarse]
    return found


class GlimpseModel(nn.Module):
    """Any core on the glimpses, and scores read from its last output.

    Args:
        core: its ``input_size`` is the pixels of a patch.
        classes: what there is to tell apart.
    """

    def __init__(self, core: MemoryCore[Any], classes: int = 10) -> None:
        super().__init__()
        patch_of(core)
        self.scores = nn.Linear(core.output_size, positive_int("classes", classes))
        self.apply(uniform_by_outputs)
        self.core = core  # after that: it has drawn its own weights

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 4 p, 4 p] -> scores [B, classes], unnormalised."""
        y, _ = self.core(glimpses(images))
        scores: Tensor = self.scores(y[-1])
        return scores


class MultiLevelModel(nn.Module):
    """The fast-weight model of Figure 3, told when to store, when to wipe and when to integrate.

    With the core's slow weights W and C, its bias b and its fast memory, and integration weights V; q is the quadrant,
    c its coarse patch and x_1 .. x_4 its fine ones::

        k_q = settle(W g_{q-1} + C c + b, nothing)          first look at the coarse patch; stored, then h is wiped
        f_1 = settle(           C x_1 + b, nothing)
        f_i = settle(W f_{i-1} + C x_i + b, nothing)         the fine patches, by slow weights
        g_q = settle(V f_4 + C c + b, k_1 .. k_q)           second look: recall and integrate
        scores = read-out of g_4,   g_0 = 0

    ``settle`` is the inner loop of the core (equation 5), with what it may read. The paper draws this and leaves open
    what is settled here so: where only slow weights act, the memory is read as empty, so that the layer norm stays; V
    enters the sustained boundary, and so the layer norm, as W does elsewhere; what was stored stays, a decay weaker
    with every quadrant; the integrated state is not stored.

    The four chains of fine patches do not depend on each other or on what is stored, so they run side by side.

    Args:
        core: its ``input_size`` is the pixels of a patch.
        classes: what there is to tell apart.

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
        self.core = core  # after that: it has drawn its own weights

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 4 p, 4 p] -> scores [B, classes], unnormalised."""
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
    """Three convolutional layers on the same patches, features of each alike in number.

    The first sees the fine patches, and with filters of its own the coarse ones; the second joins, in each quadrant,
    its four fine patches and its coarse one; the third joins the four quadrants. The paper says no more than "ConvNet".

    Args:
        patch_size: p.
        features: of every layer.
        classes: what there is to tell apart.
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
        """Images uint8 [B, 4 p, 4 p] -> scores [B, classes], unnormalised."""
        x = pixels(images).unsqueeze(1)
        fine = torch.relu(self.fine(x))
        coarse = torch.relu(self.coarse(F.avg_pool2d(x, 2)))
        joined = torch.relu(self.whole(torch.relu(self.quadrants(fine) + self.context(coarse))))
        scores: Tensor = self.scores(joined.flatten(1))
        return scores


def patch_of(core: MemoryCore[Any]) -> int:
    """p of a core that reads patches of p x p.

    Raises:
        ValueError: its ``input_size`` is no square.
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
