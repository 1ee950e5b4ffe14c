# mypy: disable-error-code="no-untyped-call, misc, no-any-return"
"""Compiles kernels, once a process, and keeps them on the disk for the next one. Importing this imports Numba."""

import contextlib
import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import njit, types
from numba.core import event, serialize
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult

from fwagents.files import replacing

DIGEST_SIZE = hashlib.sha256().digest_size
FOLDERS = ("cpu", "associative")  # where compiled code is
KEPT = 8  # files of a function: as many machines or versions share a folder


def _parameter(kind: type[Any]) -> Any:
    """Numba's type for ``int``, or for a NamedTuple of integers and floats."""
    if kind is int:
        return types.int64
    fields = [types.float64 if t is float else types.int64 for t in kind.__annotations__.values()]
    if len(set(fields)) == 1:
        return types.NamedUniTuple(fields[0], len(fields), kind)
    return types.NamedTuple(fields, kind)


@cache
def _versions() -> bytes:
    """A digest of all that a compiled kernel depends on beside its function, its signature and the processor."""
    files = [file for folder in FOLDERS for file in sorted((Path(__file__).parents[1] / folder).glob("*.py"))]
    sources = [
        source for file in files if b"import torch" not in (source := file.read_bytes())
    ]  # the others run in Python
    words = [sys.version.encode(), numba.__version__.encode(), llvmlite.__version__.encode()]
    return hashlib.sha256(b"\0".join([*words, *sources])).digest()


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
        self.name = f"{function.__module__.removeprefix('fwagents.kernels.')}.{function.__qualname__}"

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


def compile_kernel(function: Callable[..., Any], params: Sequence[Any]) -> Callable[..., Any]:
    """Load a function from the disk, or compile it, for parameters of Numba's types; it returns nothing."""
    compiled: Any = njit(nogil=True, error_model="numpy")(function)
    compiled._cache = _DiskCache(function)
    compiled.compile(types.void(*params))
    compiled.disable_compile()
    return compiled


def build(
    name: str, seconds: int, *kernels: tuple[Callable[..., Any], Sequence[type[Any]]]
) -> list[Callable[..., Any]]:
    """Load a set of kernels, or compile them and say so.

    Args:
        name: of the set, as the message gives it.
        seconds: time that compiling takes, about.
        *kernels: each a function and the types of its parameters: ``int``, or a NamedTuple of numbers.

    Returns:
        The compiled functions in the same order.
    """
    with event.install_listener("numba:compile", _Notice(name, seconds)):
        return [compile_kernel(function, [_parameter(kind) for kind in params]) for function, params in kernels]
