"""Commands to print: they run when pasted into a shell in this folder, whether or not an environment is active."""

import os
import shlex
import sys
from pathlib import Path


def script(name: str, *options: object) -> str:
    """Run a script of this folder.

    Args:
        name: the script's file name.
        *options: the rest of the command line.
    """
    return _command(_from_here(Path(__file__).with_name(name)), *options)


def tensorboard(log_dir: Path) -> str:
    """Show the learning curves of the runs in a folder."""
    return _command("-m", "tensorboard.main", "--logdir", log_dir)


def _command(*words: object) -> str:
    return shlex.join([_from_here(Path(sys.executable)), *map(str, words)])


def _from_here(path: Path) -> str:
    """A path relative to the working folder where it is inside of it, else absolute; links are not followed."""
    # The interpreter of a virtual environment is a link, and what it points to knows nothing of the environment.
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
