"""Command lines from dataclasses. A mistake in the command line ends the process with exit code 2."""

import ast
import errno
import json
import sys
import threading
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import tyro

from fwagents.runs.options import check_outputs, check_taken, check_values, flag, given

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a used-up quota, a file at its size limit
CORE_OPTIONS = ("inner_steps", "decay", "fast_lr")  # options of the core with their own flag
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# Errors of ast.literal_eval for a text that is no literal or nests too deep.
NO_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def parse(
    args_type: type[T],
    argv: Sequence[str] | None,
    default: T | None = None,
    beside_resume: Collection[str] = (),
    prog: str | None = None,
) -> T:
    """Fill the dataclass from the command line and check every option; a mistake ends the process with exit code 2.

    Args:
        args_type: the options, with their ranges; see ``options.py``.
        argv: the command line; None is this process's.
        default: values of the options that are not given.
        beside_resume: options that are allowed together with ``--resume``.
        prog: the program's name in the help; None is this process's.

    From this call on, an error because of a full disk is printed as one line that names the file.
    """
    sys.excepthook, threading.excepthook = _explain, _explain_in_thread
    argv = sys.argv[1:] if argv is None else argv
    args = _parsed(args_type, argv, default, prog)
    named = given(args_type, argv)
    try:
        check_values(args_type, vars(args))
        if getattr(args, "resume", None) is None:
            check_taken(args, named)
            check_outputs(args)
        elif named - {"resume", *beside_resume}:
            but = " or ".join(["", *map(flag, beside_resume)]).replace(" or ", " but ", 1)
            raise ValueError(f"--resume takes every option{but} from the run's own config.json, expected no other")
    except ValueError as error:
        fail(str(error))
    return args


def _parsed(args_type: type[T], argv: Sequence[str], default: T | None, prog: str | None) -> T:
    """Fill the dataclass by tyro, which prints what it does not understand in a box and exits with code 2."""
    for option, word in zip(["", *argv], argv, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):  # a path of "" would be the current folder
            fail(f"{option if not word else word[:-1]} is '', expected something that is not empty")
    if default is None:
        return tyro.cli(args_type, prog=prog, args=argv)
    return tyro.cli(args_type, prog=prog, args=argv, default=default)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replace ``sys.excepthook``: a full disk is one line without a traceback. The exit code is 1 in any case."""
    if isinstance(error, OSError) and error.errno in FULL:
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _explain_in_thread(found: threading.ExceptHookArgs) -> None:
    """Stay silent if TensorBoard's thread meets a full disk: its writer raises the same error at its next use."""
    if not (isinstance(found.exc_value, OSError) and found.exc_value.errno in FULL):
        threading.__excepthook__(found)


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit code 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def core_options(args: Any) -> dict[str, Any]:
    """Return the core's options: ``--core-kwargs``, and the options with their own flag that are given."""
    flags = {name: getattr(args, name) for name in CORE_OPTIONS}
    given = {name: value for name, value in flags.items() if value is not None}
    others = key_values("--core-kwargs", args.core_kwargs)
    for name in given.keys() & others:
        fail(f"--core-kwargs has {name}, expected it once: {flag(name)} is {given[name]!r}")
    return others | given


def key_values(option: str, words: Sequence[str]) -> dict[str, Any]:
    """``["size=20", "mode=easy"]`` -> ``{"size": 20, "mode": "easy"}``.

    A value is a Python literal that JSON can hold, or true, yes, on, false, no or off, in any case; else it is text.
    """
    result: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            fail(f"{option} got {word!r}, expected name=value")
        if key in result:
            fail(f"{option} got {word!r}, expected {key} once")
        result[key] = _value(text)
    return result


def _value(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except NO_LITERAL:
        return text
    return value
