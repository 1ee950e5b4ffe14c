"""Commands to print: they run when pasted into a shell in this folder, whether or not an environment is active."""

import os
import shlex
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def command(name: str, *options: object) -> str:
    """Return the command line that runs a command of ``fwagents``.

    Args:
        name: the command.
        *options: the rest of the command line.
    """
    return _python("-m", "fwagents", name, *options)


def tensorboard(log_dir: Path) -> str:
    """Return the command line that shows the learning curves of the runs in a folder."""
    return _python("-m", "tensorboard.main", "--logdir", log_dir)


def typed() -> str:
    """Return this process's command line, with ``python`` as the interpreter."""
    program, *words = sys.argv
    module = Path(program).name in ("fwagents", "fwagents.exe") or Path(program) == PACKAGE / "__main__.py"
    return shlex.join(["python", *(["-m", "fwagents"] if module else [program]), *words])


def _python(*words: object) -> str:
    return shlex.join([_from_here(Path(sys.executable)), *map(str, words)])


def _from_here(path: Path) -> str:
    """Return a path relative to the working folder if it lies inside, else the absolute path; keep links."""
    # The interpreter of a virtual environment is a link to an interpreter that does not use the environment.
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
