"""Interrupts of a run: it saves its agent, and a third interrupt ends the process."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from fwagents.sb3 import MemoryPPO, make_vec_env

from .runs import RESUMABLE
from .scripts import Started


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_says_where(interrupt, tmp_path):
    process = Started("agent.py", "--num-envs", "4", "--hidden-size", "8", "--eval-freq", "0", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.glob("runs/*/*/progress.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(interrupt)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (saved,) = tmp_path.glob("runs/*/*/interrupted_model.zip")
    assert str(saved.relative_to(tmp_path)) in printed
    assert MemoryPPO.load(saved).num_timesteps > 0


INTERRUPTED_WHILE_SAVING = """
import os, signal, sys, time
from fwagents.runs.interrupts import over, take_interrupts
take_interrupts()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    print("saved", flush=True)
over()
os.kill(os.getpid(), signal.SIGINT)
sys.exit(3)
"""


@pytest.mark.parametrize(("more", "code", "saved"), [(0, 3, "saved\n"), (1, 3, "saved\n"), (2, 130, "")])
def test_the_second_interrupt_waits_and_the_third_kills(more, code, saved):
    command = [sys.executable, "-c", INTERRUPTED_WHILE_SAVING, str(more)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, saved)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("after", ["at once", "folder", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_two_interrupts_end_in_no_traceback(after, tmp_path):
    process = Started("agent.py", *RESUMABLE, cwd=tmp_path)
    awaited = {"folder": "runs/*/*/config.json", "checkpoint": "runs/*/*/checkpoints/step_*.zip"}.get(after)
    deadline = time.monotonic() + 120
    while awaited and not list(tmp_path.glob(awaited)) and time.monotonic() < deadline:
        time.sleep(0.005)
    if not awaited:
        time.sleep(0.3)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.003)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in printed


def test_an_interrupt_saves_the_agent_of_now(tmp_path, monkeypatch, capsys):
    """The folder also has the last model of an interrupted closing evaluation, after which the run was resumed."""
    from fwagents.runs.run import Run

    class Stopped(Run):
        def __init__(self):
            self.model = MemoryPPO("MemoryPolicy", make_vec_env("PartialCatch-v0", 1, size=4, visible_frames=1))
            self.dir, self.console, self.judging = tmp_path, Console(width=500), False
            self.args = SimpleNamespace(checkpoint_freq=100)

        def _learn(self):
            self.model.num_timesteps = 17
            raise KeyboardInterrupt

    (tmp_path / "final_model.zip").write_bytes(b"older")
    assert Stopped().go() == 130
    assert MemoryPPO.load(tmp_path / "interrupted_model.zip").num_timesteps == 17
    printed = capsys.readouterr().out
    assert "interrupted_model.zip" in printed
    assert "Begin again, as there is no checkpoint yet" in printed
