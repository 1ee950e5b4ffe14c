"""Ctrl-C, and the signal by which a machine asks a process to end."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit code after Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_taken = 0
_importing = False


def as_script(main: Callable[[], None]) -> None:
    """Run the main function of a process of its own, whose signals are taken until it ends."""
    take_interrupts()
    try:
        main()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        over()


@contextmanager
def importing() -> Iterator[None]:
    """Around slow imports: an interrupt ends the process at once, as a library may swallow what is raised in it."""
    global _importing
    _importing = True
    try:
        yield
    finally:
        _importing = False


def take_interrupts() -> None:
    """Let the first interrupt raise KeyboardInterrupt, the second wait for what the first began, and the third kill.

    Which is the first is decided by the signal's handler itself: there is no moment at which two can raise.
    """
    global _taken
    _taken = 0
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell leaves it for what runs in the background
            signal.signal(number, _interrupt)


def over() -> None:
    """Ignore what comes when all is done, so that Python ends in peace."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _taken
    if _importing:
        os.write(sys.__stderr__.fileno(), b"\nInterrupted.\n")  # type: ignore[union-attr]
        os._exit(INTERRUPTED)
    _taken += 1
    if _taken == 1:
        raise KeyboardInterrupt
    if _taken > 2:
        os._exit(INTERRUPTED)
    # Not by print: the interrupted code may be in the middle of one.
    os.write(sys.__stderr__.fileno(), b"\nSaving the run. A third interrupt ends the process without saving.\n")  # type: ignore[union-attr]
