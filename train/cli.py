"""Command lines from dataclasses: one clear line and exit code 2 for whatever cannot be understood."""

import ast
import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeVar

import tyro

T = TypeVar("T")
INTERRUPTED = 130  # exit code after Ctrl-C
# The keys of fwagents.cores.CORES, so that help and mistakes need no torch.
CoreName = Literal[
    "fast_weights",
    "rotary_fast_weights",
    "irnn",
    "lstm",
    "gru",
    "associative_lstm",
    "sum_rule",
    "delta_net",
    "gated_delta_net",
    "hebbian",
    "ffm",
    "none",
]
CORE_OPTIONS = ("inner_steps", "decay", "fast_lr")  # those with a flag of their own


def parse(args_type: type[T], argv: Sequence[str] | None, default: T | None = None) -> T:
    """The dataclass filled from the command line; tyro's boxed error comes out as one line."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            if default is None:
                return tyro.cli(args_type, args=argv)
            return tyro.cli(args_type, args=argv, default=default)
    except SystemExit as exit_:
        if exit_.code:
            fail(_first_message(captured.getvalue()))
        raise


def _first_message(box: str) -> str:
    """The text of the first section of tyro's error box."""
    rows = []
    for row in box.splitlines()[1:]:
        text = row.strip("│╭╰╮╯ \n")
        if not text or set(text) == {"─"} or text.startswith("Got errors"):
            break
        rows.append(text)
    return " ".join(rows)


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit code 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def core_options(args: Any) -> dict[str, Any]:
    """Options of the core: --core-kwargs, and over them those that have a flag of their own, where given."""
    flags = {name: getattr(args, name) for name in CORE_OPTIONS}
    given = {name: value for name, value in flags.items() if value is not None}
    return key_values("--core-kwargs", args.core_kwargs) | given


def key_values(option: str, words: Sequence[str]) -> dict[str, Any]:
    """``["size=20", "mode=easy"]`` -> ``{"size": 20, "mode": "easy"}``; values are Python literals, else text."""
    result: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            fail(f"{option} got {word!r}, expected name=value")
        try:
            result[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            result[key] = text
    return result
