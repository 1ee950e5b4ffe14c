"""One process at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from fwagents.runs.cli import fail


def alone_with(run_dir: Path) -> AbstractContextManager[IO[str]]:
    """Hold a run's folder; as :func:`alone_in`."""
    return alone_in(run_dir, f"{run_dir} is in use by another process, expected a run that has stopped")


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
