"""Ctrl-C, and the signal by which a machine asks a process to end."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

INTERRUPTED = 130  # exit code after Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_taken = 0
_begun = False


def as_script(main: Callable[[], None]) -> None:
    """Run the main function of a process of its own, whose signals are taken until it ends.

    An interrupt that ``main`` does not take is one line and exit code 130.
    """
    take_interrupts()
    try:
        main()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        over()


def take_interrupts() -> None:
    """Let the first interrupt raise KeyboardInterrupt, the second wait for what the first began, and the third kill.

    Which is the first is decided by the signal's handler itself: there is no moment at which two can raise. While a
    module is imported the first one ends the process at once, until ``begun``.
    """
    global _taken, _begun
    _taken, _begun = 0, False
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell leaves it for what runs in the background
            signal.signal(number, _interrupt)


def begun() -> None:
    """From now on there is something to save: every first interrupt raises KeyboardInterrupt."""
    global _begun
    _begun = True


def over() -> None:
    """Ignore what comes when all is done, so that Python ends in peace."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _taken
    _taken += 1
    if _taken == 1:
        # An import can swallow a KeyboardInterrupt: torch takes it for a NumPy that is not installed.
        if not _begun and _importing(frame):
            _leave(b"\nInterrupted.\n")
        raise KeyboardInterrupt
    if _taken > 2:
        _leave()
    # Not by print: the interrupted code may be in the middle of one.
    _write(b"\nSaving the run. A third interrupt ends the process without saving.\n")


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way in the frame or one of its callers."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave(line: bytes = b"") -> None:
    _write(line)
    os._exit(INTERRUPTED)


def _write(line: bytes) -> None:
    os.write(sys.__stderr__.fileno(), line)  # type: ignore[union-attr]
