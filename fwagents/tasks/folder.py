"""A data set of images in folders, one folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from fwagents.cores.base import positive_int
from fwagents.tasks.data import Examples

SPLITS = ("train", "validation", "test")
OPTIONAL = "validation"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".tif", ".tiff")


class ImageFolder(NamedTuple):
    """Grey images uint8 [N, S, S], 255 for white, with their labels; a label is an index into ``classes``.

    ``validation`` is None if there is no such folder.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    classes: tuple[str, ...]


def load_image_folder(path: str | Path, size: int, progress: bool = True) -> ImageFolder:
    """Read ``<path>/<split>/<class>/<image>``; the splits are ``train``, ``test`` and, if there is one, ``validation``.

    The classes are the folders in ``train``, sorted by name; the other splits need not have all of them. Images are
    converted to grey. An image of another size is cropped to a central square and scaled by averaging. Files without
    the suffix of an image, and files and folders whose names begin with a dot, are ignored.

    Args:
        path: folder of the splits.
        size: S, pixels along each side.
        progress: True shows a progress bar on a terminal.

    Raises:
        FileNotFoundError: a folder does not exist, or has no image.
        ValueError: an image cannot be read, a split has a class that ``train`` lacks, or ``size`` is below 1.
    """
    root = Path(path).expanduser()
    size = positive_int("size", size)
    classes = tuple(folder.name for folder in _class_folders(root / "train"))
    # All files are found before any is read, so that a missing one is reported at once.
    files = {name: _files(root / name, classes) for name in SPLITS if name != OPTIONAL or (root / name).is_dir()}
    read = {name: _read(name, found, size, progress) for name, found in files.items()}
    return ImageFolder(read["train"], read.get(OPTIONAL), read["test"], classes)


def _class_folders(split: Path) -> list[Path]:
    if not split.is_dir():
        raise FileNotFoundError(f"{split} does not exist, expected a folder of classes")
    folders = sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise FileNotFoundError(f"{split} has no folders, expected one a class")
    return folders


def _files(split: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """List the images of a split, each with its label."""
    found = []
    for folder in _class_folders(split):
        if folder.name not in classes:
            raise ValueError(f"{folder} is of a class that train lacks, expected one of {', '.join(classes)}")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
        if not paths:
            raise FileNotFoundError(f"{folder} has no images, expected files that end in {', '.join(SUFFIXES)}")
        found += [(path, classes.index(folder.name)) for path in paths]
    return found


def _read(split: str, files: Sequence[tuple[Path, int]], size: int, progress: bool) -> Examples:
    images = torch.empty(len(files), size, size, dtype=torch.uint8)
    bar = tqdm(files, desc=split, unit=" images", disable=None if progress else True)
    for row, (path, _) in enumerate(bar):
        images[row] = torch.from_numpy(_grey(path, size))
    return Examples(images, torch.tensor([label for _, label in files]))


def _grey(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip such pixels to white
                raise ValueError(f"its mode is {image.mode}, expected 8 bits a channel")
            return np.array(ImageOps.fit(image.convert("L"), (size, size), Image.Resampling.BOX))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
