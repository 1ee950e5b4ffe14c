"""The commands that scripts print run as they stand, in a shell with no environment active."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .scripts import TRAIN


@pytest.fixture
def commands(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAIN))
    import commands

    return commands


def pasted(line, cwd):
    """Run a printed line in a plain shell, on whose PATH there is no interpreter of ours."""
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )


def test_a_script_runs_from_a_folder_elsewhere(commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = Path("my runs/it's [b]one[/b]")
    line = commands.script("watch.py", run_dir)
    done = pasted(line, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {run_dir} cannot be shown: {run_dir} is no run: it has no config.json\n", line


def test_tensorboard_runs(commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = pasted(f"{commands.tensorboard(Path('my runs'))} --version_tb", tmp_path)
    assert done.returncode == 0, done.stderr


def test_paths_inside_the_folder_are_short(commands, monkeypatch):
    monkeypatch.chdir(TRAIN.parent)
    monkeypatch.setattr(sys, "executable", str(TRAIN.parent / ".venv" / "bin" / "python"))
    assert commands.script("watch.py", "a b") == ".venv/bin/python train/watch.py 'a b'"
    assert commands.tensorboard(Path("runs")) == ".venv/bin/python -m tensorboard.main --logdir runs"
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert shlex.split(commands.script("watch.py"))[0] == "/elsewhere/bin/python"
