"""The compiled kernels, each set loaded from the disk or compiled when a scan first calls it.

Importing this module does not import Numba. The first call in a process imports it, which takes about a second, and
loads or compiles the kernels.
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
    """Kernels of Ba's scan; each field takes the arguments of the Python function of the same name."""

    plan: Callable[..., None]
    prepared: Callable[..., None]
    forward: Callable[..., None]
    final: Callable[..., None]
    backward: Callable[..., None]


class ProgramKernels(NamedTuple):
    """Kernels of the fast-weight programmers; fields as in ``ScanKernels``."""

    forward: Callable[..., None]
    mix: Callable[..., None]
    backward: Callable[..., None]


class AssociativeKernels(NamedTuple):
    """Kernels of the associative LSTM; fields as in ``ScanKernels``."""

    forward: Callable[..., None]
    backward: Callable[..., None]


def _once(build: Callable[[], KernelsT]) -> Callable[[], KernelsT]:
    """Cache ``build``, so that it runs once per process, whichever thread calls it first."""
    kept = cache(build)

    @wraps(build)
    def built() -> KernelsT:
        with _lock:
            return kept()

    return built


@_once
def scan_kernels() -> ScanKernels:
    """Return the kernels of Ba's scan."""
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
    """Return the kernels of the fast-weight programmers."""
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
    """Return the kernels of the associative LSTM."""
    from fwagents.kernels.associative import step
    from fwagents.kernels.cpu.compiled import build

    return AssociativeKernels(*build("associative-LSTM", 5, (step.forward, [int] * 10), (step.backward, [int] * 12)))
