"""A run's folder: its name, its description, and the functions that read it back."""

import errno
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from fwagents.files import remove_unfinished, replacing
from fwagents.machine import commit, cpu
from fwagents.runs.options import check_taken, from_json
from fwagents.runs.shell import typed

CONFIG = "config.json"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
WRITTEN = ("events.out.tfevents.*", "progress.csv", "monitor.csv", "evaluations.npz", "best_model.zip")
MODELS = ("best_model.zip", "final_model.zip", "interrupted_model.zip")
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # errors of a rename to a name that exists

ArgsT = TypeVar("ArgsT", bound=Any)


def new_run_dir(log_dir: Path, env: str, core: str, seed: int, config: dict[str, Any]) -> Path:
    """Make ``<log_dir>/<env>/<core>-s<seed>-<time>`` with its ``config.json``; the folder never exists without it.

    Two runs begun in the same second get folders of their own.
    """
    name = f"{core}-s{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    parent = log_dir / env.rpartition(":")[2].replace("/", "-")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as beside:
        whole = Path(beside) / name
        write_json(whole / CONFIG, config)
        for attempt in range(1, 1000):
            run_dir = parent / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                return whole.rename(run_dir)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
    raise FileExistsError(f"{parent / name} and 998 folders after it exist")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file. It is complete or absent at any time."""
    _write(path, json.dumps(content, indent=2) + "\n")


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with one line for each entry: a file with a curve stays short and its diffs readable."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    _write(path, "{\n" + lines + "\n}\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def provenance() -> dict[str, Any]:
    """Return what is needed to repeat this run: command, commit, machine, versions."""
    packages = ["fwagents", "torch", "gymnasium", "stable-baselines3", "sb3-contrib", "numpy"]
    return {
        "command": typed(),
        "commit": commit(Path(__file__).parent),
        "machine": cpu(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in packages}},
    }


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None if there is no such file.

    Raises:
        ValueError: the file is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_config(run_dir: Path, args_type: type, command: str = "agent") -> dict[str, Any]:
    """Return a run's ``config.json``, with its ``args`` as the fields of the command's options.

    Args:
        run_dir: the run's folder.
        args_type: the options of the command that made the run.
        command: name of that command.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: the file is not the configuration of a run of that command, or a value is missing, of another type
            or out of its range.
    """
    path = run_dir / CONFIG
    config = read_json(path)
    if config is None:
        raise FileNotFoundError(f"{run_dir} is no run: it has no {CONFIG}")
    try:
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
        config["args"] = from_json(args_type, config.get("args"))
        policy = _object(config, "policy_kwargs") if "env" in config["args"] else config
        _object(policy, "core_kwargs")
        if "env" in config["args"]:
            _object(config, "env_kwargs")
    except ValueError as error:
        raise ValueError(f"{path} does not describe a run of fwagents {command}: {error}") from error
    return config


def restored(args: ArgsT, command: str, beside: Collection[str] = ()) -> tuple[ArgsT, dict[str, Any]]:
    """Return the options of the run that ``--resume`` names, and the content of its ``config.json``.

    Args:
        args: the command line.
        command: name of the command that made the run.
        beside: options of the command line that override the run's own options if they are not None.

    Raises:
        FileNotFoundError, ValueError: as for ``read_config``, or an option of ``beside`` has no effect in that run.
    """
    run_dir: Path = args.resume
    config = read_config(run_dir, type(args), command)
    given = {name: getattr(args, name) for name in beside if getattr(args, name) is not None}
    found = type(args)(**{**config["args"], "resume": run_dir, **given})
    check_taken(found, given)
    return found, config


def reopen(run_dir: Path) -> None:
    """Prepare the folder of a run that was stopped at any moment for resuming.

    Raises:
        ValueError: the run is finished.
    """
    result = read_json(run_dir / RESULT)
    if result is not None and not result.get("resumable"):
        raise ValueError(f"{run_dir} is finished: it has a {RESULT}")
    remove_unfinished(run_dir)


def begin_again(run_dir: Path) -> None:
    """Remove the files that a run wrote before its first checkpoint was complete; ``config.json`` stays."""
    for pattern in WRITTEN:
        for path in run_dir.glob(pattern):
            path.unlink()
    shutil.rmtree(run_dir / CHECKPOINTS, ignore_errors=True)


def _object(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object ``config[name]``; raise ValueError if it is not an object."""
    found = config.get(name)
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {found!r}, expected an object")
    return found


def best_model(run_dir: Path) -> Path:
    """Return the path of the best model of an agent's run, else of the last one.

    Raises:
        FileNotFoundError: the run has no model.
    """
    for name in MODELS:
        if (run_dir / name).is_file():
            return run_dir / name
    raise FileNotFoundError(f"{run_dir} has no model yet: no {', '.join(MODELS[:-1])} or {MODELS[-1]}")


def newest_agent(log_dir: Path) -> Path:
    """Return the folder of the run that last saved a model.

    Raises:
        FileNotFoundError: no run has a model.
    """
    models = [path for name in MODELS for path in log_dir.glob(f"*/*/{name}")]
    if not models:
        raise FileNotFoundError(f"{log_dir} has no run with a model yet: train one with fwagents agent")
    return max(models, key=lambda path: path.stat().st_mtime).parent
