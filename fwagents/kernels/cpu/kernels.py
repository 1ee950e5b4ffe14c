"""The compiled kernels, each set loaded from the disk or compiled when a scan first calls it.

Importing this module does not import Numba; the first call in a process does, and takes about a second or compiles.
"""

from collections.abc import Callable
from functools import cache, wraps
from threading import Lock
from typing import NamedTuple, TypeVar

from fwagents.kernels.cpu.problem import Gradients, Problem, Slot
from fwagents.kernels.cpu.program_problem import Places, ProgramGradients, ProgramProblem

KernelsT = TypeVar("KernelsT")
_lock = Lock()


class ScanKernels(NamedTuple):
    """Ba's scan; each entry takes what the Python function of that name takes."""

    plan: Callable[..., None]
    prepared: Callable[..., None]
    forward: Callable[..., None]
    final: Callable[..., None]
    backward: Callable[..., None]


class ProgramKernels(NamedTuple):
    """The fast-weight programmers; entries as in ``ScanKernels``."""

    forward: Callable[..., None]
    mix: Callable[..., None]
    backward: Callable[..., None]


class AssociativeKernels(NamedTuple):
    """The associative LSTM; entries as in ``ScanKernels``."""

    forward: Callable[..., None]
    backward: Callable[..., None]


def _once(build: Callable[[], KernelsT]) -> Callable[[], KernelsT]:
    """A function that builds at its first call in a process, on whichever thread that is."""
    kept = cache(build)

    @wraps(build)
    def built() -> KernelsT:
        with _lock:
            return kept()

    return built


@_once
def scan_kernels() -> ScanKernels:
    """The kernels of Ba's scan."""
    from fwagents.kernels.cpu import backward, entries, forward
    from fwagents.kernels.cpu.compiled import build

    return ScanKernels(
        *build(
            "fast-weight",
            15,
            (entries.plan, [int] * 7),
            (entries.prepared, [Problem, int]),
            (forward.forward, [Problem, int, int, int]),
            (entries.final, [Problem, int, int, int, int, int]),
            (backward.backward, [Problem, Gradients, Slot, int, int, int, int]),
        )
    )


@_once
def program_kernels() -> ProgramKernels:
    """The kernels of the fast-weight programmers."""
    from fwagents.kernels.cpu import program_backward, program_forward, program_mix
    from fwagents.kernels.cpu.compiled import build

    return ProgramKernels(
        *build(
            "fast-weight-programmer",
            30,
            (program_forward.forward, [ProgramProblem, Places, *[int] * 5]),
            (program_mix.mix, [int] * 10),
            (program_backward.backward, [ProgramProblem, ProgramGradients, Places, *[int] * 6]),
        )
    )


@_once
def associative_kernels() -> AssociativeKernels:
    """The kernels of the associative LSTM."""
    from fwagents.kernels.associative import step
    from fwagents.kernels.cpu.compiled import build

    return AssociativeKernels(*build("associative-LSTM", 5, (step.forward, [int] * 10), (step.backward, [int] * 12)))
