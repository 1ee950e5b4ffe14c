"""Commands to print: they run when pasted into a shell in this folder, whether or not an environment is active."""

import os
import shlex
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def command(name: str, *options: object) -> str:
    """Run a command of ``fwagents``.

    Args:
        name: the command.
        *options: the rest of the command line.
    """
    return _python("-m", "fwagents", name, *options)


def tensorboard(log_dir: Path) -> str:
    """Show the learning curves of the runs in a folder."""
    return _python("-m", "tensorboard.main", "--logdir", log_dir)


def typed() -> str:
    """This process's own command line, with ``python`` for the interpreter."""
    program, *words = sys.argv
    module = Path(program).name in ("fwagents", "fwagents.exe") or Path(program) == PACKAGE / "__main__.py"
    return shlex.join(["python", *(["-m", "fwagents"] if module else [program]), *words])


def _python(*words: object) -> str:
    return shlex.join([_from_here(Path(sys.executable)), *map(str, words)])


def _from_here(path: Path) -> str:
    """A path relative to the working folder where it is inside of it, else absolute; links are not followed."""
    # The interpreter of a virtual environment is a link, and what it points to knows nothing of the environment.
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
