"""Folders of generated images: pixels, labels, classes, and error messages."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fwagents.tasks.folder import load_image_folder

RNG = np.random.default_rng(0)


def grey(path, pixels=None):
    """Write a grey image; return its pixels."""
    pixels = RNG.integers(0, 256, (6, 6), dtype=np.uint8) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def faces(tmp_path):
    """Write two classes, each with two training images and one test image."""
    pixels = [
        grey(tmp_path / split / expression / f"{i}.png")
        for split, count in [("train", 2), ("test", 1)]
        for expression in ["smile", "squint"]
        for i in range(count)
    ]
    return tmp_path, pixels


def test_reads_splits_classes_and_pixels(faces):
    path, pixels = faces
    data = load_image_folder(path, 6)
    assert data.classes == ("smile", "squint")
    assert data.validation is None
    assert (data.train.inputs.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)
    np.testing.assert_array_equal(data.train.inputs, pixels[:4])
    np.testing.assert_array_equal(data.test.inputs, pixels[4:])
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]


def test_a_label_is_the_place_of_its_class_in_train(faces):
    path, _ = faces
    shutil.rmtree(path / "test" / "smile")
    pixels = grey(path / "validation" / "squint" / "a.png")
    data = load_image_folder(str(path), 6)
    assert data.test.labels.tolist() == [1]
    assert data.validation.labels.tolist() == [1]
    np.testing.assert_array_equal(data.validation.inputs, pixels[None])


def test_colour_becomes_grey_by_luminance(tmp_path):
    """ITU-R 601: 0.299 red + 0.587 green + 0.114 blue."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0], pixels[1, 1], pixels[2, 2] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    for split in ("train", "test"):
        grey(tmp_path / split / "a" / "b.png", pixels)
    image = load_image_folder(tmp_path, 4).train.inputs[0]
    np.testing.assert_allclose(image.diagonal(), [59.8, 117.4, 22.8, 0], atol=1)


def test_another_size_is_cut_to_its_middle_and_scaled(tmp_path):
    """The image is 16 high and 32 wide; its white sides are cut off, and the rest is dark above and light below."""
    wide = np.full((16, 32), 255, np.uint8)
    wide[:8, 8:24], wide[8:, 8:24] = 40, 200
    for split in ("train", "test"):
        grey(tmp_path / split / "a" / "b.png", wide)
    image = load_image_folder(tmp_path, 8).train.inputs[0]
    np.testing.assert_array_equal(image[[0, 1, -2, -1]], np.repeat([[40], [40], [200], [200]], 8, axis=1))


def test_passes_over_what_is_no_image_by_its_name(faces):
    path, _ = faces
    (path / "train" / "smile" / "notes.txt").write_text("not one")
    (path / "train" / "smile" / "._0.png").write_text("what some systems leave behind")
    (path / "train" / ".cache").mkdir()
    (path / "train" / "list.csv").write_text("")
    grey(path / "train" / "squint" / "A.BMP")
    assert load_image_folder(path, 6).train.labels.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shutil.rmtree, FileNotFoundError, "train does not exist, expected a folder of classes"),
        (lambda path: shutil.rmtree(path / "test"), FileNotFoundError, "test does not exist"),
        (lambda path: (path / "validation").mkdir(), FileNotFoundError, "validation has no folders, expected one a"),
        (
            lambda path: (
                (path / "train" / "squint" / "1.png").rename(path / "1.png")
                and (path / "train" / "squint" / "0.png").rename(path / "0.png")
            ),
            FileNotFoundError,
            r"train.squint has no images, expected files that end in \.png, \.jpg",
        ),
        (
            lambda path: grey(path / "test" / "scream" / "a.png"),
            ValueError,
            "test.scream is of a class that train lacks",
        ),
        (
            lambda path: (path / "train" / "smile" / "2.jpg").write_bytes(b"\xff\xd8 no more"),
            ValueError,
            r"train.smile.2\.jpg cannot be read as an image",
        ),
        (
            lambda path: (path / "test" / "smile" / "0.png").write_bytes(
                (path / "test" / "smile" / "0.png").read_bytes()[:-30]
            ),
            ValueError,
            r"test.smile.0\.png cannot be read as an image",
        ),
        (
            lambda path: grey(path / "train" / "smile" / "deep.png", np.zeros((6, 6), np.uint16)),
            ValueError,
            r"deep\.png cannot be read as an image: its mode is I;16, expected 8 bits a channel",
        ),
    ],
)
def test_what_is_wrong_is_named(faces, change, error, message):
    path, _ = faces
    change(path)
    with pytest.raises(error, match=message) as raised:
        load_image_folder(path, 6)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0, 4.5])
def test_a_size_is_a_whole_number_of_pixels(faces, size):
    with pytest.raises(ValueError, match=f"size is {size}, expected an integer of at least 1"):
        load_image_folder(faces[0], size)
