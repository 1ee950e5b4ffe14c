"""The commands that a run prints work as printed, in a shell without an active virtual environment."""

import shlex
import subprocess
import sys
from pathlib import Path

from fwagents.runs import shell

ROOT = Path(__file__).parent.parent


def pasted(line, cwd):
    """Run a printed line in a plain shell whose PATH does not have our interpreter."""
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )


def test_a_command_runs_from_a_folder_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = Path("my runs/it's [b]one[/b]")
    line = shell.command("watch", run_dir)
    done = pasted(line, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {run_dir} cannot be shown: {run_dir} is no run: it has no config.json\n", line


def test_tensorboard_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = pasted(f"{shell.tensorboard(Path('my runs'))} --version_tb", tmp_path)
    assert done.returncode == 0, done.stderr


def test_paths_inside_the_folder_are_short(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv" / "bin" / "python"))
    assert shell.command("watch", "a b") == ".venv/bin/python -m fwagents watch 'a b'"
    assert shell.tensorboard(Path("runs")) == ".venv/bin/python -m tensorboard.main --logdir runs"
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert shlex.split(shell.command("watch"))[0] == "/elsewhere/bin/python"
