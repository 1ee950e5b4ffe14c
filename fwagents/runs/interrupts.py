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
    """Run the main function of a process and handle the process's signals until ``main`` ends.

    An interrupt that ``main`` does not catch prints one line and ends the process with exit code 130.
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
    """Let the first interrupt raise KeyboardInterrupt, the second print a line, and the third end the process.

    The signal handler itself counts interrupts, so two of them can never both raise. Before ``begun``, an interrupt
    during an import ends the process at once.
    """
    global _taken, _begun
    _taken, _begun = 0, False
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell ignores the signal for background processes
            signal.signal(number, _interrupt)


def begun() -> None:
    """Declare that there is something to save: from now on the first interrupt always raises KeyboardInterrupt."""
    global _begun
    _begun = True


def over() -> None:
    """Ignore all later signals, so that Python can shut down undisturbed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _taken
    _taken += 1
    if _taken == 1:
        # An import can swallow a KeyboardInterrupt: torch treats it as if NumPy were not installed.
        if not _begun and _importing(frame):
            _leave(b"\nInterrupted.\n")
        raise KeyboardInterrupt
    if _taken > 2:
        _leave()
    # Not by print: the interrupted code may be in the middle of one.
    _write(b"\nSaving the run. A third interrupt ends the process without saving.\n")


def _importing(frame: FrameType | None) -> bool:
    """Return whether an import is under way in the frame or one of its callers."""
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
