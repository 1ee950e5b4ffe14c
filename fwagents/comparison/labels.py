"""Find runs in folders, group those that differ only in their seed, and label each group by its setting."""

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fwagents.comparison.run_files import FILES, RunFiles
from fwagents.runs.agent import Args

# Options that say which seed ran, where it wrote and how often; the environment is a panel of its own.
NO_SETTING = {
    *("env", "env_kwargs", "seed", "resume", "log_dir", "checkpoint_freq", "eval_freq", "eval_episodes"),
    *("final_episodes", "log_memory", "log_memory_freq", "address"),
}
DEFAULTS = {field.name: field.default for field in fields(Args)}
PATHS = ("name", "parent", "run")  # what a run can be grouped by if it has no config.json
NUMBER = re.compile(r"(?:[-_. ]?seed[-_=]?\d+|[-_]s\d+|_\d+|^\d+)$", re.IGNORECASE)


def find_runs(paths: Iterable[Path]) -> list[RunFiles]:
    """Return the runs in folders and below them; below a run nothing is searched.

    Args:
        paths: folders, or patterns of folders such as ``runs/*/gru-*``.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no run.
    """
    found: dict[Path, RunFiles] = {}
    for path in paths:
        folders = [path] if path.exists() else [Path(each) for each in sorted(glob.glob(str(path)))]
        runs = [run for folder in folders for run in _below(folder)]
        if not runs:
            what = f"holds no run: no {', '.join(FILES[:-1])} or {FILES[-1]}" if folders else "is no folder"
            raise FileNotFoundError(f"{path} {what}")
        found |= {Path(os.path.abspath(run)): RunFiles(run) for run in runs}
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    runs = []
    for here, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(any(Path(here).glob(pattern)) for pattern in FILES):
            runs.append(Path(here))
            folders.clear()
    return runs


def grouped(runs: Sequence[RunFiles], group_by: Sequence[str] = ()) -> tuple[dict[str, list[RunFiles]], list[str]]:
    """Return the runs of one environment by the label of their setting, and the options that a label leaves out.

    A label names the first options that tell the settings apart, without those that are None or empty. Other options
    can differ along with these.

    Args:
        runs: the runs.
        group_by: options of ``fwagents agent``, "name" (the folder's name without a number at its end), "parent" (the
            folder above) or "run"; empty for all options that differ, and for the name where a run has no options.

    Raises:
        ValueError: a run does not have what it is grouped by.
    """
    options = {run: _options(run) for run in runs}
    for word in group_by:
        if word not in DEFAULTS and word not in PATHS:
            raise ValueError(f"a run is grouped by {word!r}, expected name, parent, run or an option of fwagents agent")
        for run in runs:
            if word not in PATHS and options[run] is None:
                raise ValueError(
                    f"{run.folder} has no config.json to be grouped by {word!r}, expected name, parent or run"
                )
    ours = [found for found in options.values() if found is not None]
    names = [word for word in group_by if word not in PATHS] if group_by else _telling_apart(ours)
    kinds = [word for word in group_by if word in PATHS]
    paths = {run: [_path(run, kind) for kind in kinds or PATHS[:1]] for run in runs}
    tails = [shortest_tails({each[place] for each in paths.values()}) for place in range(len(kinds or PATHS[:1]))]

    groups: dict[str, list[RunFiles]] = {}
    for run in runs:
        found = options[run]
        by_path = [tail[path] for tail, path in zip(tails, paths[run], strict=True)] if kinds or found is None else []
        by_option = [] if found is None else [_spelled(name, found[name]) for name in names if _given(found[name])]
        label = ", ".join([*by_path, *by_option]) or _spelled("core", (found or DEFAULTS)["core"])
        groups.setdefault(label, []).append(run)
    differing = [name for name in DEFAULTS if name not in NO_SETTING and len({repr(each[name]) for each in ours}) > 1]
    return groups, [name for name in differing if name not in names]


def shortest_tails(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the shortest end of each path that no other path shares: ``a/ppo`` and ``b/ppo``, but only ``dqn``."""
    known = set(paths)
    tails = {}
    for path in known:
        lengths = range(1, len(path.parts) + 1)
        length = next(n for n in lengths if sum(other.parts[-n:] == path.parts[-n:] for other in known) == 1)
        tails[path] = Path(*path.parts[-length:]).as_posix()
    return tails


def _options(run: RunFiles) -> dict[str, Any] | None:
    """Options of a run of ``fwagents agent``; an option that is newer than the run has its default."""
    if run.config is None:
        return None
    given: Mapping[str, Any] = run.config["args"]
    return DEFAULTS | {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _telling_apart(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first options that together tell apart all settings."""
    chosen: list[str] = []
    for name in DEFAULTS:
        if name not in NO_SETTING and _count(options, [*chosen, name]) > _count(options, chosen):
            chosen.append(name)
    return chosen


def _count(options: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    return len({repr([each[name] for name in names]) for each in options})


def _path(run: RunFiles, kind: str) -> Path:
    """The path that a run shares with the other seeds of its setting."""
    folder = Path(os.path.abspath(run.folder))
    if kind == "run":
        return folder
    name = NUMBER.sub("", folder.name) if kind == "name" else ""
    return folder.parent / name if name else folder.parent


def _spelled(name: str, value: Any) -> str:
    if not isinstance(value, tuple):
        return f"{name}={value}"
    words = " ".join(map(str, value))  # of core_kwargs they are name=value already
    return words if name.endswith("kwargs") else f"{name}={words}"


def _given(value: Any) -> bool:
    return value is not None and value != ()
