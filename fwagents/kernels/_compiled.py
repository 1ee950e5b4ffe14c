# mypy: disable-error-code="no-untyped-call, misc, no-any-return"
"""Compiles the kernels at first use, once a process, and keeps them on disk for the next one.

Importing this module imports Numba; :mod:`fwagents.kernels.cpu` does so when a scan is first run.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from numba import njit, types
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile

from fwagents.kernels import _associative, _backward, _entries, _forward
from fwagents.kernels._problem import Gradients, Problem, Slot


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


def _named(kind: type[Any]) -> Any:
    fields = [types.float64 if t is float else types.int64 for t in kind.__annotations__.values()]
    if len(set(fields)) == 1:
        return types.NamedUniTuple(fields[0], len(fields), kind)
    return types.NamedTuple(fields, kind)


@cache
def _digest() -> str:
    """Of all the kernels' sources: what one file compiles to depends on the others."""
    files = sorted(Path(__file__).parent.glob("_*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class _DiskCache(FunctionCache):
    """Numba's cache, stale when any kernel source has changed, and no more than a help where it cannot be used."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=_digest()
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever a damaged file raises when it is unpickled, compiling mends it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _say(f"the compiled kernels stay in memory, since they cannot be saved: {error}")


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
    try:
        compiled._cache = _DiskCache(function)
    except RuntimeError:  # no folder that can be written
        _say("the compiled kernels stay in memory, since no cache folder can be written; set NUMBA_CACHE_DIR to one")
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
