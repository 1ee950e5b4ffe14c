# mypy: disable-error-code="no-untyped-call, misc, no-any-return"
"""Compiles the kernels at first use, once a process, and keeps them on disk for the next one.

Importing this module imports Numba; :mod:`fwagents.kernels.cpu` does so when a scan is first run.
"""

import contextlib
import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba import njit, types
from numba.core import event, serialize
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult

from fwagents.files import replacing
from fwagents.kernels import _associative, _backward, _entries, _forward, _program_backward, _program_forward
from fwagents.kernels._problem import Gradients, Problem, Slot
from fwagents.kernels._program import Places, ProgramGradients, ProgramProblem

DIGEST_SIZE = hashlib.sha256().digest_size
KEPT = 8  # files of a function: as many machines or versions share a folder


class Kernels(NamedTuple):
    """The compiled entry points; each takes what the Python function of that name takes."""

    plan: Callable[..., None]
    prepared: Callable[..., None]
    forward: Callable[..., None]
    final: Callable[..., None]
    backward: Callable[..., None]


class AssociativeKernels(NamedTuple):
    """Those of :mod:`fwagents.kernels._associative`."""

    forward: Callable[..., None]
    backward: Callable[..., None]


class ProgramKernels(NamedTuple):
    """The kernels of :mod:`fwagents.kernels._program_forward` and :mod:`fwagents.kernels._program_backward`."""

    forward: Callable[..., None]
    mix: Callable[..., None]
    backward: Callable[..., None]


def _named(kind: type[Any]) -> Any:
    fields = [types.float64 if t is float else types.int64 for t in kind.__annotations__.values()]
    if len(set(fields)) == 1:
        return types.NamedUniTuple(fields[0], len(fields), kind)
    return types.NamedTuple(fields, kind)


@cache
def _versions() -> bytes:
    """A digest of all that a compiled kernel depends on beside its function, its signature and the processor."""
    files = sorted(Path(__file__).parent.glob("_*.py"))
    words = [sys.version.encode(), numba.__version__.encode(), llvmlite.__version__.encode()]
    return hashlib.sha256(b"\0".join([*words, *(file.read_bytes() for file in files)])).digest()


def _folder() -> Path:
    """One folder for all installations of a user: kernels depend on a machine and on versions, not on a place."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(named or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.expanduser() / "fwagents" / "kernels"


class _DiskCache(NullCache):
    """Where Numba looks for a compiled function, and puts it.

    A file holds one function for one signature, one processor and one set of versions, whose digest is in its name. It
    begins with the digest of the rest of it. There is no index. A file that is damaged or absent is compiled anew, and
    where no file can be written the function stays in memory.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        try:
            path = self._path(sig, target_context.codegen())
            content = path.read_bytes()
            if content[:DIGEST_SIZE] != hashlib.sha256(content[DIGEST_SIZE:]).digest():
                return None
            found = CompileResult._rebuild(target_context, *pickle.loads(content[DIGEST_SIZE:]))
        except (OSError, RuntimeError):  # no file, or no home to look for it in
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the files that are used last are kept
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        payload = serialize.dumps(data._reduce())
        try:
            path = self._path(sig, data.codegen)
            with replacing(path) as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            self._drop_oldest(path.parent)
        except (OSError, RuntimeError) as error:
            _say(
                f"the compiled kernels stay in memory, since they cannot be saved: {error}; "
                "set NUMBA_CACHE_DIR to a folder that can be written"
            )

    def _path(self, sig: Any, codegen: Any) -> Path:
        key = hashlib.sha256(_versions() + repr((sig, codegen.magic_tuple())).encode()).hexdigest()
        return _folder() / f"{self.name}.{key[:32]}.kernel"

    def _drop_oldest(self, folder: Path) -> None:
        """Keep the newest files of this function; those of earlier versions, or left by a killed process, go."""
        for _ in range(3):  # another process may drop a file in between
            with contextlib.suppress(FileNotFoundError):
                found = sorted(folder.glob(f"*{self.name}.*"), key=lambda path: path.stat().st_mtime)
                for path in found[:-KEPT]:
                    path.unlink()
                return


_said: set[str] = set()


def _say(text: str) -> None:
    """Print a line on stderr, once a process."""
    if text not in _said:
        _said.add(text)
        print(f"fwagents: {text}", file=sys.stderr, flush=True)


class _Notice(event.Listener):
    """Says that a compilation begins; Numba reports none when the code comes from the disk."""

    def __init__(self, kernels: str, seconds: int) -> None:
        self.text = f"compiling the {kernels} kernels for this machine, about {seconds} seconds"

    def on_start(self, event: Any) -> None:
        _say(self.text)

    def on_end(self, event: Any) -> None:
        pass


def _compile(function: Callable[..., Any], result: Any, params: list[Any]) -> Callable[..., Any]:
    compiled: Any = njit(nogil=True, error_model="numpy")(function)
    compiled._cache = _DiskCache(function)
    compiled.compile(result(*params))
    compiled.disable_compile()
    return compiled


def build() -> Kernels:
    """Load the kernels from the disk, or compile them."""
    i, none = types.int64, types.void
    problem, gradients, slot = _named(Problem), _named(Gradients), _named(Slot)
    with event.install_listener("numba:compile", _Notice("fast-weight", 15)):
        return Kernels(
            plan=_compile(_entries.plan, none, [i] * 7),
            prepared=_compile(_entries.prepared, none, [problem, i]),
            forward=_compile(_forward.forward, none, [problem, i, i, i]),
            final=_compile(_entries.final, none, [problem, i, i, i, i, i]),
            backward=_compile(_backward.backward, none, [problem, gradients, slot, i, i, i, i]),
        )


def build_associative() -> AssociativeKernels:
    """The same for the associative LSTM."""
    i, none = types.int64, types.void
    with event.install_listener("numba:compile", _Notice("associative-LSTM", 5)):
        return AssociativeKernels(
            forward=_compile(_associative.forward, none, [i] * 10),
            backward=_compile(_associative.backward, none, [i] * 12),
        )


def build_program() -> ProgramKernels:
    """The same for the fast-weight programmers."""
    i, none = types.int64, types.void
    problem, gradients, places = _named(ProgramProblem), _named(ProgramGradients), _named(Places)
    with event.install_listener("numba:compile", _Notice("fast-weight-programmer", 30)):
        return ProgramKernels(
            forward=_compile(_program_forward.forward, none, [problem, places, *[i] * 5]),
            mix=_compile(_program_forward.mix, none, [i] * 10),
            backward=_compile(_program_backward.backward, none, [problem, gradients, places, *[i] * 6]),
        )
