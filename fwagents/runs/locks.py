"""Locks between processes: on a run's folder, and on the parts of a shared study."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from fwagents.runs.cli import fail


def alone_with(run_dir: Path) -> AbstractContextManager[IO[str]]:
    """Lock a run's folder; see ``alone_in``."""
    return alone_in(run_dir, f"{run_dir} is in use by another process, expected a run that has stopped")


@contextmanager
def alone_in(folder: Path, otherwise: str) -> Iterator[IO[str]]:
    """Lock a folder, which is made if absent, while the block runs and while a child process has inherited the file.

    If another process holds the lock, print ``otherwise`` and exit with code 2.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        if not hold(lock):
            fail(otherwise)
        yield lock


def hold(lock: IO[str]) -> bool:
    """Lock a file for this process and for the processes that inherit it; return False if another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Claims:
    """Claims of processes that share work, as locks on single bytes of a file.

    A lock ends with its process, however the process ends. On a network file system it holds between machines. A
    process must open the file only once, because closing it anywhere in the process releases all its locks.

    Args:
        path: the file, which is made if absent.
    """

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, place: int) -> bool:
        """Take a place; return False if another process has it."""
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # either, says POSIX
            return False
        return True

    def give(self, place: int) -> None:
        """Release a place."""
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, place)

    @contextmanager
    def alone(self, place: int) -> Iterator[None]:
        """Wait for a place and hold it while the block runs."""
        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, place)
        try:
            yield
        finally:
            self.give(place)
