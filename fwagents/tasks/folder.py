"""Images in folders, a folder a class: any pictures of one's own."""

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
    """Grey images uint8 [N, S, S] with their labels, white high; a label is a place in ``classes``.

    ``validation`` is None where there is no such folder.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    classes: tuple[str, ...]


def load_image_folder(path: str | Path, size: int, progress: bool = True) -> ImageFolder:
    """Read ``<path>/<split>/<class>/<image>``; the splits are ``train``, ``test`` and, if there is one, ``validation``.

    The classes are the folders in ``train``, by name; the other splits need not have all of them. Images become grey;
    one of another size is cut to a square about its middle and scaled by averaging. Files that are no images by their
    names, and folders that begin with a dot, are passed over.

    Args:
        path: folder of the splits.
        size: S, pixels along each side.
        progress: show a bar on a terminal.

    Raises:
        FileNotFoundError: there is no such folder, or no image in one.
        ValueError: an image cannot be read, a split has a class that ``train`` lacks, or ``size`` is below 1.
    """
    root = Path(path).expanduser()
    size = positive_int("size", size)
    classes = tuple(folder.name for folder in _class_folders(root / "train"))
    # All are found before any is read: what is missing is said at once.
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
    """The images of a split, each with its label."""
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
            if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
                raise ValueError(f"its mode is {image.mode}, expected 8 bits a channel")
            return np.array(ImageOps.fit(image.convert("L"), (size, size), Image.Resampling.BOX))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
