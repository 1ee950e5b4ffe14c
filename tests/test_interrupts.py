"""Ctrl-C while a script imports its modules gives one line and exit code 130."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from fwagents.runs.agent import Args

from .scripts import TRAIN

# Replaces NumPy, which all slow modules import first. It swallows the exception, as torch does.
INTERRUPTS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    pass
"""
SCRIPTS = {
    "agent": [],
    "retrieval": [],
    "language": ["--file", __file__],
    "glimpses": [],
    "tune": [],
    "watch": ["run"],
    "export": ["run"],
    "pictures": ["run", "--output", "pictures"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder with an agent's run and a module that is interrupted while it is imported."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "numpy.py").write_text(INTERRUPTS)
    args = {name: str(value) if name == "log_dir" else value for name, value in asdict(Args()).items()}
    (folder / "run").mkdir()
    config = {"args": args, "env_kwargs": {}, "policy_kwargs": {"core_kwargs": {}}}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    (folder / "run" / "best_model.zip").touch()
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_interrupt_at_an_import_is_one_line(script, folder):
    command = [sys.executable, str(TRAIN / f"{script}.py"), *SCRIPTS[script]]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nInterrupted.\n")
    assert not (folder / "runs").exists()
