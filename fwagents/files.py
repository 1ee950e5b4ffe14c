"""Files that are whole or absent, whenever the process dies, and errors that name them."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An ``OSError`` within, such as a full disk's, names ``path`` if it names no file of its own."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """A new file that takes ``path``'s place when the block ends, and leaves no trace where the block fails.

    Written under a temporary name beside it, synced, then renamed. The folder is made if absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        # The rename itself is on the disk only once its folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def check_zip(path: Path) -> None:
    """Compare what a zip file holds with its checksums.

    Raises:
        ValueError: a part of it fails.
        zipfile.BadZipFile, OSError: it is no zip file, or cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"{broken} fails its checksum")


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files that ``replacing`` left in a folder, or below it, when its process was killed."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
