"""Glimpses of images made by hand, and the models against equations computed independently of the package."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from fwagents.cores import CORES, FastWeights, make_core
from fwagents.tasks.data import Examples
from fwagents.tasks.folder import load_image_folder
from fwagents.tasks.glimpses import GlimpseModel, MultiLevelModel, PatchConvNet, boxes, glimpses, hold_out
from tests.core_family import randomised

P = 3


def random_images(count=2, p=P):
    return torch.randint(0, 256, (count, 4 * p, 4 * p), dtype=torch.uint8)


def test_the_order_of_the_patches():
    """Each fine patch has one shade, 10 times the quadrant plus the patch; a coarse patch has its four fine ones."""
    p = 4
    image = np.zeros((4 * p, 4 * p), np.uint8)
    for row in range(4):
        for column in range(4):
            quadrant, patch = 2 * (row // 2) + column // 2, 2 * (row % 2) + column % 2
            image[row * p : row * p + p, column * p : column * p + p] = 10 * quadrant + patch
    seen = (255 * glimpses(torch.from_numpy(image)[None])[:, 0]).round().int().reshape(24, p, p)
    for quadrant in range(4):
        looks = seen[6 * quadrant : 6 * quadrant + 6]
        for patch in range(4):
            assert (looks[1 + patch] == 10 * quadrant + patch).all()
        quarters = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
        for coarse in (looks[0], looks[5]):
            assert torch.equal(coarse, 10 * quadrant + quarters)


@pytest.mark.parametrize("p", [1, 2, 3, 7, 12])
@pytest.mark.usefixtures("float64")
def test_glimpses_pixel_by_pixel(p):
    images = random_images(2, p)
    seen = glimpses(images)
    assert seen.shape == (24, 2, p * p)
    seen = seen.reshape(24, 2, p, p)
    for b, image in enumerate(images.tolist()):
        for quadrant in range(4):
            top, left = 2 * p * (quadrant // 2), 2 * p * (quadrant % 2)
            for y in range(p):
                for x in range(p):
                    corner = [image[top + 2 * y + i][left + 2 * x + j] for i in (0, 1) for j in (0, 1)]
                    for look in (0, 5):
                        assert seen[6 * quadrant + look, b, y, x].item() == pytest.approx(sum(corner) / 4 / 255)
                    for patch in range(4):
                        pixel = image[top + p * (patch // 2) + y][left + p * (patch % 2) + x]
                        assert seen[6 * quadrant + 1 + patch, b, y, x].item() == pytest.approx(pixel / 255)


@pytest.mark.parametrize("p", [1, 7])
def test_boxes_are_where_the_glimpses_are(p):
    image = random_images(1, p)
    seen = (255 * glimpses(image)[:, 0]).reshape(24, p, p)
    for (row, column, side), patch in zip(boxes(4 * p), seen, strict=True):
        cut = image[0, row : row + side, column : column + side].float()
        shrunk = cut if side == p else cut.reshape(p, 2, p, 2).mean((1, 3))
        torch.testing.assert_close(patch, shrunk, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.usefixtures("float64")
def test_the_plain_model_reads_the_core_after_the_last_glimpse(name):
    model = randomised(GlimpseModel(make_core(name, P * P, 8), classes=5))
    images = random_images()
    state = model.core.initial_state(2)
    for patch in glimpses(images):
        y, state = model.core.step(patch, state)
    torch.testing.assert_close(model(images), y @ model.scores.weight.T + model.scores.bias)


def wired(model, images):
    """Compute Figure 3 glimpse by glimpse with a control signal, with A as a matrix, in plain tensors."""
    core, V = model.core, model.integration
    W, C, b, options = core.weight_hh, core.weight_ih, core.bias, core.options
    h, A = torch.zeros(len(images), core.hidden_size), torch.zeros(len(images), core.hidden_size, core.hidden_size)

    def settle(boundary, memory):
        s = boundary.clamp(min=0)
        for step in range(options.inner_steps):
            total = boundary + torch.stack([memory[row] @ s[row] for row in range(len(s))])
            row = min(step, len(core.norm.weight) - 1)
            mean = total.mean(1, keepdim=True)
            deviation = ((total - mean).square().mean(1, keepdim=True) + options.norm_eps).sqrt()
            s = (core.norm.weight[row] * (total - mean) / deviation + core.norm.bias[row]).clamp(min=0)
        return s

    for t, patch in enumerate(glimpses(images)):
        control = ("store", None, None, None, None, "integrate")[t % 6]
        weights, memory = (V, A) if control == "integrate" else (W, torch.zeros_like(A))
        h = settle(h @ weights.T + patch @ C.T + b, memory)
        if control == "store":
            A = options.decay * A + options.fast_lr * torch.stack([torch.outer(row, row) for row in h])
            h = torch.zeros_like(h)  # reset
    return h @ model.scores.weight.T + model.scores.bias


@pytest.mark.parametrize(
    "options",
    [{}, {"inner_steps": 3}, {"inner_steps": 2, "norm_per_step": True}, {"decay": 0.6, "fast_lr": 1.5}],
    ids=str,
)
@pytest.mark.usefixtures("float64")
def test_the_multilevel_model_is_figure_3(options):
    """Compare the scores and the gradient of every weight."""
    model = randomised(MultiLevelModel(FastWeights(P * P, 5, **options), classes=4))
    images, cotangent = random_images(3), torch.randn(3, 4)
    weights = list(model.parameters())
    results = [
        (scores, torch.autograd.grad((scores * cotangent).sum(), weights))
        for scores in (model(images), wired(model, images))
    ]
    torch.testing.assert_close(results[0], results[1])
    assert all(gradient.abs().max() > 0 for gradient in results[0][1])


@pytest.mark.usefixtures("float64")
def test_the_memory_matters_only_at_the_second_look():
    """Without writes, the first coarse glimpse of the last quadrant has no effect after h is reset."""
    images = random_images(1)
    kept = randomised(MultiLevelModel(FastWeights(P * P, 5, fast_lr=0.0)))
    stored = randomised(MultiLevelModel(FastWeights(P * P, 5, fast_lr=1.0)))
    for model, reaches in [(kept, False), (stored, True)]:
        # The derivative of the scores through the last quadrant's first glimpse alone: g_3 -> k_4 -> A -> g_4.
        seen = []
        settle = model.core.settle

        def noted(boundary, memory=None, settle=settle, seen=seen):
            result = settle(boundary, memory)
            result.retain_grad()
            seen.append(result)
            return result

        model.core.settle = noted
        model(images).sum().backward()
        first_look = seen[-2]
        assert (first_look.grad is not None and first_look.grad.abs().max() > 0) == reaches


@pytest.mark.usefixtures("float64")
def test_the_convnet_patch_by_patch():
    """Compute every layer as products with patches that are cut out by hand."""
    features = 4
    net = randomised(PatchConvNet(P, features, classes=3))
    (image,) = random_images(1)
    looks = glimpses(image[None])[:, 0].reshape(4, 6, P * P)

    def seen(layer, patch):
        return (layer.weight.reshape(features, -1) @ patch + layer.bias).clamp(min=0)

    quadrants = []
    for look in looks:
        fine = torch.stack([seen(net.fine, patch) for patch in look[1:5]])
        joined = torch.einsum("ofk,kf->o", net.quadrants.weight.reshape(features, features, 4), fine)
        context = net.context.weight.reshape(features, features) @ seen(net.coarse, look[0])
        quadrants.append((joined + net.quadrants.bias + context).clamp(min=0))
    whole = torch.einsum("ofk,kf->o", net.whole.weight.reshape(features, features, 4), torch.stack(quadrants))
    scores = net.scores.weight @ (whole + net.whole.bias).clamp(min=0) + net.scores.bias
    torch.testing.assert_close(net(image[None])[0], scores)


def test_hold_out():
    examples = Examples(torch.arange(20).reshape(20, 1), torch.arange(20))
    train, validation = hold_out(examples, 6)
    assert (len(train.labels), len(validation.labels)) == (14, 6)
    assert sorted([*train.labels.tolist(), *validation.labels.tolist()]) == list(range(20))
    assert torch.equal(train.inputs[:, 0], train.labels)
    assert torch.equal(hold_out(examples, 6)[1].labels, validation.labels)
    assert validation.labels.tolist() != sorted(validation.labels.tolist()), "drawn at random"
    for count in (0, 20):
        with pytest.raises(ValueError, match=f"validation_images is {count}, expected 1 to 19"):
            hold_out(examples, count)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GlimpseModel(make_core("lstm", 50, 3)), "core.input_size is 50"),
        (lambda: MultiLevelModel(FastWeights(8, 3)), "core.input_size is 8"),
        (lambda: GlimpseModel(make_core("lstm", 49, 3), classes=0), "classes is 0"),
        (lambda: PatchConvNet(0, 3), "patch_size is 0"),
        (lambda: PatchConvNet(7, 0), "features is 0"),
    ],
)
def test_bad_sizes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_faces_of_48_pixels_in_patches_of_12(tmp_path):
    """A small version of the paper's third experiment: generated images are read from folders and classified."""
    generator = np.random.default_rng(0)
    for split, count in [("train", 12), ("test", 6)]:
        for place, name in enumerate(["frown", "smile"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                face = generator.integers(0, 60, (48, 48), dtype=np.uint8)
                face[30:42] += np.uint8(150 * place)
                Image.fromarray(face).save(folder / f"{i}.png")
    images = load_image_folder(tmp_path, 48, progress=False)
    torch.manual_seed(0)
    for model in (MultiLevelModel(FastWeights(144, 16), 2), PatchConvNet(12, 8, 2)):
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(model(images.train.inputs), images.train.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert math.isfinite(loss.item())
        assert torch.equal(model(images.test.inputs).argmax(1), images.test.labels)
