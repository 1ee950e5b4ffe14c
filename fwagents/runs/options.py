"""Metadata of the fields of an options dataclass: range, algorithms or engines that use it, file that it names.

``n_epochs: Annotated[int, at_least(1), TakenBy(algo=("memory_ppo",))] = 4``
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

MOST = 10**15  # far above every count or weight of a run
MOST_PROCESSES = max(64, 4 * (os.cpu_count() or 1))  # also the most threads; torch crashes with 100,000


@dataclass(frozen=True)
class Within:
    """A number lies in [low, high]; in (low, high] if ``above``."""

    low: float
    high: float
    above: bool = False

    def expected(self, value: float) -> str | None:
        """Return the range in words; None if the value lies in it."""
        if self.low <= value <= self.high and not (self.above and value == self.low):
            return None
        if value > self.high:
            return f"at most {self.high}"
        return f"above {self.low}" if self.above else f"at least {self.low}"


def at_least(low: float) -> Within:
    """Return the range of numbers from ``low`` on."""
    return Within(low, MOST)


def above(low: float) -> Within:
    """Return the range of numbers greater than ``low``."""
    return Within(low, MOST, above=True)


Count = Annotated[int, at_least(1)]
CountOrNone = Annotated[int, at_least(0)]
Seed = Annotated[int, Within(0, 2**32 - 1)]  # NumPy's range of seeds
Share = Annotated[float, Within(0, 1)]
Weight = Annotated[float, Within(0, 1000)]
Real = Annotated[float, Within(-MOST, MOST)]
Norm = Annotated[float, above(0)]
Units = Annotated[int, Within(1, 1_000_000)]
Threads = Annotated[int, Within(1, MOST_PROCESSES)]
Frequency = Annotated[float, Within(0.01, 1_000_000)]


@dataclass(frozen=True, init=False)
class TakenBy:
    """Condition on other options under which an option has an effect.

    Args:
        **choices: the other options' values with which this option has an effect, by name; none if it always has one.
    """

    choices: tuple[tuple[str, tuple[Any, ...]], ...]

    def __init__(self, **choices: tuple[Any, ...]) -> None:
        object.__setattr__(self, "choices", tuple(choices.items()))


ALWAYS = TakenBy()


@dataclass(frozen=True)
class Writes:
    """The option names a file or a folder that the command writes."""

    kind: Literal["file", "folder"]

    def expected(self, path: Path) -> str | None:
        """Return a description of a path that can be written; None if ``path`` can be."""
        if self.kind == "file" and path.is_dir():
            return "the name of a file: there is a folder of that name"
        folder = path if self.kind == "folder" else path.parent
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not there.is_dir():
            return f"a path of folders: {there} is a file"
        return None if os.access(there, os.W_OK | os.X_OK) else f"a {self.kind} that can be written: {there} cannot"


OutputFile = Annotated[Path, Writes("file")]
OutputFolder = Annotated[Path, Writes("folder")]


@cache
def hints(args_type: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields, with their metadata."""
    return get_type_hints(args_type, include_extras=True)


def metadata(args_type: type, name: str, kind: type) -> Any:
    """Return the metadata of type ``kind`` on a field, or on a part of its type; None if there is none."""
    return _found(hints(args_type)[name], kind)


def _found(hint: Any, kind: type) -> Any:
    own = getattr(hint, "__metadata__", ())
    parts = (get_args(hint)[0],) if own else get_args(hint)
    within = (_found(part, kind) for part in parts if not isinstance(part, str))
    return next((each for each in (*own, *within) if isinstance(each, kind)), None)


def flag(name: str) -> str:
    """Return a field's name as an option of the command line."""
    return f"--{name.replace('_', '-')}"


def check_values(args_type: type, values: Mapping[str, Any], spelled: str = "--") -> None:
    """Check the type and range of every option.

    Args:
        args_type: the options dataclass.
        values: all of its fields.
        spelled: "--" to name an option as on the command line, or a prefix of the field's own name.

    Raises:
        ValueError: an option is of another type, is not finite, or is out of its range.
    """
    for name, hint in hints(args_type).items():
        expected = unlike(hint, values[name])
        if expected is not None:
            shown = flag(name) if spelled == "--" else spelled + name
            raise ValueError(f"{shown} is {values[name]!r}, expected {expected}")


def unlike(hint: Any, value: Any) -> str | None:
    """Describe what a type expects in place of a value; None if the value is of the type and in its range."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = (each for each in hint.__metadata__ if isinstance(each, Within))
        wrong = (unlike(parts[0], value), *(each.expected(value) for each in ranges if _is_number(value)))
        return next((each for each in wrong if each), None)
    if origin in (Union, UnionType):
        found = [unlike(part, value) for part in parts]
        return None if None in found else " or ".join(str(each) for each in found)
    if origin is Literal:
        names = ", ".join(map(str, parts))
        return None if isinstance(value, str) and value in parts else f"{'one of ' if len(parts) > 1 else ''}{names}"
    if origin is tuple:
        if not isinstance(value, tuple):
            return "a list"
        return next(filter(None, (unlike(parts[0], each) for each in value)), None)
    if hint is float:
        return None if _is_number(value) and abs(value) < math.inf else "a finite number"
    if hint is int:
        return None if _is_number(value) and isinstance(value, int) else "a whole number"
    names_of = {bool: "True or False", str: "text", Path: "a path", NoneType: "None"}
    return None if isinstance(value, hint) else names_of[hint]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def from_json(args_type: type, stored: Any) -> dict[str, Any]:
    """Return an options dataclass's fields from JSON, where tuples are lists and paths are strings.

    Raises:
        ValueError: a field is missing, unknown, of another type or out of its range.
    """
    if not isinstance(stored, dict):
        raise ValueError("args is no object")
    names = [field.name for field in fields(args_type)]
    if odd := [*(name for name in names if name not in stored), *(name for name in stored if name not in names)]:
        raise ValueError(f"args has {'no' if odd[0] in names else 'an unknown'} {odd[0]!r}")
    values = {name: _from_json(hint, stored[name]) for name, hint in hints(args_type).items()}
    check_values(args_type, values, "args.")
    return values


def _from_json(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    parts = {hint, *get_args(hint), *(part for outer in get_args(hint) for part in get_args(outer))}
    return Path(value) if isinstance(value, str) and Path in parts else value


def given(args_type: type, argv: Sequence[str]) -> set[str]:
    """Return the fields that a command line names, in any spelling."""
    words = {word.partition("=")[0][2:].replace("-", "_") for word in argv if word.startswith("--")}
    return {name for name in hints(args_type) if {name, f"no_{name}"} & words}


def check_taken(args: Any, named: Iterable[str]) -> None:
    """Raise ValueError if a named option has no effect with the others; switching off what is off is allowed."""
    defaults = {field.name: field.default for field in fields(args)}
    for name in named:
        if getattr(args, name) is False and defaults[name] is False:
            continue
        taken = metadata(type(args), name, TakenBy)
        for other, values in taken.choices if taken else ():
            if (value := getattr(args, other)) not in values:
                expected = " or ".join(_spelled(other, each) for each in values)
                raise ValueError(f"{flag(name)} does nothing with {_spelled(other, value)}, expected {expected}")


def check_idle(args: Any, other: str) -> None:
    """Raise ValueError if an option differs from its default although another option's value leaves it without effect.

    Args:
        args: the options.
        other: name of the other option.
    """
    args_type: type = type(args)
    for field in fields(args_type):
        taken = metadata(args_type, field.name, TakenBy)
        values = dict(taken.choices).get(other) if taken else None
        if values is not None and getattr(args, other) not in values and getattr(args, field.name) != field.default:
            shown = f"{flag(field.name)} is {getattr(args, field.name)!r}, expected {field.default!r}"
            raise ValueError(f"{shown} with {_spelled(other, getattr(args, other))}")


def _spelled(name: str, value: Any) -> str:
    """Return an option with its value, as on the command line."""
    if value is None:
        return f"no {flag(name)}"
    return flag(name if value else f"no_{name}") if isinstance(value, bool) else f"{flag(name)} {value}"


def check_outputs(args: Any) -> None:
    """Raise ValueError if a file or folder that an option names cannot be written."""
    args_type: type = type(args)
    for name in hints(args_type):
        writes, found = metadata(args_type, name, Writes), getattr(args, name)
        for path in found if isinstance(found, tuple) else (found,):
            if writes is not None and path is not None and (expected := writes.expected(path)):
                raise ValueError(f"{flag(name)} is {str(path)!r}, expected {expected}")
