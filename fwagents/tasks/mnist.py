"""MNIST, handwritten digits, from local files or downloaded once."""

import gzip
import os
import textwrap
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ENVIRONMENT = "FWAGENTS_MNIST"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Names of the files, and the SHA-256 of each published <name>.gz.
TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
CHECKSUMS = {
    TRAIN_IMAGES: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    TRAIN_LABELS: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    TEST_IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    TEST_LABELS: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
SIZE = 28
CLASSES = 10


class MNIST(NamedTuple):
    """Images uint8 [N, 28, 28], 255 for ink, and digits int64 [N]; N is 60,000 for training and 10,000 for test."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_mnist(data_dir: str | Path | None = None, progress: bool = True) -> MNIST:
    """Read the four IDX files of LeCun et al. (1998), plain or gzipped.

    The files are read from ``data_dir``, else from the folder in the environment variable ``FWAGENTS_MNIST``. Nothing
    is written to these folders, and the files may hold any number of images. Without a folder, the published files are
    read from the user's cache, or downloaded from the first mirror that has them, which needs ``pooch``. Downloads must
    match their checksums, and enter the cache whole or not at all.

    Args:
        data_dir: folder of the four files.
        progress: True shows a progress bar for each download.

    Raises:
        FileNotFoundError: a file is missing, and no mirror has it.
        ValueError: a file is damaged, truncated, or not the kind that its name says.
    """
    folder = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT) or None
    if folder is not None:
        paths = {name: _present(Path(folder).expanduser(), name) for name in CHECKSUMS}
    else:
        paths = {name: _downloaded(name, progress) for name in CHECKSUMS}
    train = _images_with_labels(paths[TRAIN_IMAGES], paths[TRAIN_LABELS])
    test = _images_with_labels(paths[TEST_IMAGES], paths[TEST_LABELS])
    return MNIST(*train, *test)


def cache_folder() -> Path:
    """Return the folder of downloads in the user's cache."""
    import pooch

    return Path(pooch.os_cache("fwagents")) / "mnist"


def _present(folder: Path, name: str) -> Path:
    """Return the path of the file of that name, plain or gzipped."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} has neither {name} nor {name}.gz, expected MNIST's four IDX files there")


def _downloaded(name: str, progress: bool) -> Path:
    """Return the path of the published file, from the cache or a mirror."""
    try:
        import pooch
    except ImportError:
        raise ImportError(
            f'MNIST is downloaded with pooch: pip install "fwagents[tasks]", or name a folder of its files '
            f"({ENVIRONMENT} or data_dir)"
        ) from None
    folder, failures = cache_folder(), []
    for mirror in MIRRORS:
        try:
            path: str = pooch.retrieve(
                f"{mirror}{name}.gz",
                known_hash=f"sha256:{CHECKSUMS[name]}",
                fname=f"{name}.gz",
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=progress),
            )
            return Path(path)
        except (OSError, ValueError) as error:  # requests raises an OSError, a wrong checksum a ValueError
            failures.append(textwrap.shorten(f"{mirror}: {error}", 240))
    raise FileNotFoundError(
        f"{name}.gz is not in {folder} and no mirror gave it, expected one that does, or the four files in a folder "
        f"that {ENVIRONMENT} or data_dir names; {'; '.join(failures)}"
    )


def _images_with_labels(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_path, SIZE, SIZE), read_idx(labels_path)
    if len(images) != len(labels):
        raise ValueError(f"{labels_path} has {len(labels)} labels, expected {len(images)}, one an image")
    if labels.max() >= CLASSES:
        raise ValueError(f"{labels_path} has the label {int(labels.max())}, expected 0 to {CLASSES - 1}")
    return images, labels.long()


def read_idx(path: Path, *sizes: int) -> Tensor:
    """Read an IDX file of bytes: four magic bytes, the last the number of dimensions, then their sizes and the data.

    Args:
        path: path of the file, which is gzipped if the path ends in ``.gz``.
        *sizes: expected sizes of all dimensions but the first.

    Returns:
        uint8 [N, *sizes], N at least 1.

    Raises:
        ValueError: the file is damaged, or not as above.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; expected a whole gzip file") from error
    magic = bytes([0, 0, 8, 1 + len(sizes)])
    if content[:4] != magic:
        raise ValueError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}: an IDX file of bytes "
            f"in {1 + len(sizes)} dimensions"
        )
    header = 4 * (2 + len(sizes))
    if len(content) < header:
        raise ValueError(f"{path} has {len(content)} bytes, expected a header of {header}")
    count, *found = np.frombuffer(content[4:header], ">u4").tolist()
    if found != [*sizes] or count == 0:
        shape = " x ".join(map(str, [count, *found]))
        raise ValueError(f"{path} holds {shape} bytes, expected {' x '.join(['N', *map(str, sizes)])}, N at least 1")
    whole = header + count * int(np.prod(sizes))
    if len(content) != whole:
        raise ValueError(f"{path} has {len(content)} bytes, expected {whole} for {count} entries: it is not whole")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(count, *sizes).copy())
