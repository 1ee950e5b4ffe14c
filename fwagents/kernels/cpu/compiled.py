# mypy: disable-error-code="no-untyped-call, misc, no-any-return"
"""Compiles kernels and caches them on the disk. Importing this module imports Numba."""

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
FOLDERS = ("cpu", "associative")  # folders with the sources of the kernels
KEPT = 8  # cache files of a function, for machines or versions that share a folder


def _parameter(kind: type[Any]) -> Any:
    """Return Numba's type for ``int``, or for a NamedTuple of integers and floats."""
    if kind is int:
        return types.int64
    fields = [types.float64 if t is float else types.int64 for t in kind.__annotations__.values()]
    if len(set(fields)) == 1:
        return types.NamedUniTuple(fields[0], len(fields), kind)
    return types.NamedTuple(fields, kind)


@cache
def _versions() -> bytes:
    """Return a digest of the sources and versions on which every compiled kernel depends."""
    files = [file for folder in FOLDERS for file in sorted((Path(__file__).parents[1] / folder).glob("*.py"))]
    sources = [
        source for file in files if b"import torch" not in (source := file.read_bytes())
    ]  # files that import torch run in Python
    words = [sys.version.encode(), numba.__version__.encode(), llvmlite.__version__.encode()]
    return hashlib.sha256(b"\0".join([*words, *sources])).digest()


def _folder() -> Path:
    """Return the cache folder, which all installations of a user share: no kernel depends on where it is installed."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(named or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.expanduser() / "fwagents" / "kernels"


class _DiskCache(NullCache):
    """Numba's cache of one function on the disk.

    A file holds the function for one signature, one processor and one set of versions; a digest of these is in its
    name. The file begins with the digest of its own content. There is no index. If the file is damaged or absent, the
    function is compiled. If no file can be written, the function stays in memory.
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
        except (OSError, RuntimeError):  # no file, or no home folder
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # ``_drop_oldest`` keeps the most recently used files
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
        """Keep the newest files of this function, and delete older ones and leftovers of killed processes."""
        for _ in range(3):  # another process may delete a file in between
            with contextlib.suppress(FileNotFoundError):
                found = sorted(folder.glob(f"*{self.name}.*"), key=lambda path: path.stat().st_mtime)
                for path in found[:-KEPT]:
                    path.unlink()
                return


_said: set[str] = set()


def _say(text: str) -> None:
    """Print a line on stderr, once per process."""
    if text not in _said:
        _said.add(text)
        print(f"fwagents: {text}", file=sys.stderr, flush=True)


class _Notice(event.Listener):
    """Print a line when a compilation begins. Numba reports none when it loads the code from the disk."""

    def __init__(self, kernels: str, seconds: int) -> None:
        self.text = f"compiling the {kernels} kernels for this machine, about {seconds} seconds"

    def on_start(self, event: Any) -> None:
        _say(self.text)

    def on_end(self, event: Any) -> None:
        pass


def compile_kernel(function: Callable[..., Any], params: Sequence[Any]) -> Callable[..., Any]:
    """Load a function from the disk, or compile it, for Numba types ``params``; the function must return None."""
    compiled: Any = njit(nogil=True, error_model="numpy")(function)
    compiled._cache = _DiskCache(function)
    compiled.compile(types.void(*params))
    compiled.disable_compile()
    return compiled


def build(
    name: str, seconds: int, *kernels: tuple[Callable[..., Any], Sequence[type[Any]]]
) -> list[Callable[..., Any]]:
    """Load a set of kernels, or compile them and print a message.

    Args:
        name: name of the set in the message.
        seconds: approximate time that compiling takes.
        *kernels: a function and the types of its parameters, each ``int`` or a NamedTuple of numbers.

    Returns:
        The compiled functions in the same order.
    """
    with event.install_listener("numba:compile", _Notice(name, seconds)):
        return [compile_kernel(function, [_parameter(kind) for kind in params]) for function, params in kernels]
