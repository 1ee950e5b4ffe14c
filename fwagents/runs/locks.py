"""One process at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fwagents.runs.cli import fail


@contextmanager
def alone_in(folder: Path, otherwise: str) -> Iterator[IO[str]]:
    """Hold the folder, which is made if absent, for as long as the block runs, and whoever inherits the file beyond.

    Leaves with ``otherwise`` for a message if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(otherwise)
        yield lock
