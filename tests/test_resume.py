"""A run that is killed at any moment and resumed has the same result as an uninterrupted run."""

import csv
import fcntl
import json
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwagents.sb3 import MemoryPPO
from fwagents.sb3.checkpoints import newest_whole

from .runs import RESUMABLE, run_folder
from .scripts import Started, refusal, run


def agent(*args, cwd):
    return run("agent.py", *args, cwd=cwd)


def killed(cwd, after, *options):
    """Start a run and kill it with SIGKILL at a random moment after its ``after``-th checkpoint."""
    process = Started("agent.py", *options, cwd=cwd)
    deadline = time.monotonic() + 120
    while len(list(cwd.glob("runs/*/*/checkpoints/step_*.zip"))) < after:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.random() * 0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return run_folder(cwd)


def weights(folder):
    return dict(MemoryPPO.load(folder / "final_model.zip").policy.named_parameters())


def episodes(folder):
    with (folder / "monitor.csv").open() as file:
        next(file)
        return [(row["r"], row["l"]) for row in csv.DictReader(file)]


def assert_same_run(folder, other):
    torch.testing.assert_close(weights(folder), weights(other), rtol=0, atol=0)
    assert episodes(folder) == episodes(other)
    assert (folder / "result.json").read_text() == (other / "result.json").read_text()


def progress(folder):
    with (folder / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    timing = {"time/fps", "time/time_elapsed", "time/iterations"}
    return [{name: value for name, value in row.items() if name not in timing} for row in rows]


def _scalars(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Scalars(tag)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("unbroken")
    done = agent(*RESUMABLE, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return run_folder(cwd)


ONCE = [pytest.param([after], marks=pytest.mark.slow) for after in (1, 6)]


@pytest.mark.parametrize("kills", [*ONCE, [3, 9]], ids=str)
def test_killed_and_resumed_equals_unbroken(unbroken, kills, tmp_path):
    folder = killed(tmp_path, kills[0], *RESUMABLE)
    for after in kills[1:]:
        killed(tmp_path, after, "--resume", str(folder))
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Resumed" in done.stdout

    assert_same_run(folder, unbroken)
    for name in ("timesteps", "results", "ep_lengths", "successes"):
        with np.load(folder / "evaluations.npz") as ours, np.load(unbroken / "evaluations.npz") as theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])
    steps = [row["time/total_timesteps"] for row in progress(folder)]
    assert steps == [row["time/total_timesteps"] for row in progress(unbroken)]
    ours, theirs = ({s.step: s.value for s in _scalars(f, "train/value_loss")} for f in (folder, unbroken))
    assert ours == theirs


def test_a_broken_checkpoint_is_skipped_with_a_warning(unbroken, tmp_path):
    folder = killed(tmp_path, 5, *RESUMABLE)
    newest = sorted((folder / "checkpoints").glob("step_*.zip"))
    newest[-1].write_bytes(newest[-1].read_bytes()[:-100])  # truncated
    damaged = bytearray(newest[-2].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    newest[-2].write_bytes(damaged)
    (folder / "checkpoints" / "step_999999999999.zip").touch()
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped:") == 3
    torch.testing.assert_close(weights(folder), weights(unbroken), rtol=0, atol=0)


def test_what_cannot_be_resumed_is_one_line(unbroken, tmp_path):
    for name in ("empty", "none"):
        (tmp_path / name).mkdir()
    shutil.copy(unbroken / "config.json", tmp_path / "none")
    (tmp_path / "none" / "checkpoints").mkdir()
    (tmp_path / "none" / "checkpoints" / "step_000000000000.zip").touch()
    for folder, message in [("empty", "no run"), ("none", "no whole checkpoint"), (unbroken, "is finished")]:
        assert message in refusal(agent("--resume", folder, cwd=tmp_path))
    done = agent("--resume", unbroken, "--seed", "2", cwd=tmp_path)
    assert "--resume takes every option but --address" in refusal(done)


def test_a_run_without_a_checkpoint_begins_again(unbroken, tmp_path):
    """The run is killed between the creation of its folder and its first checkpoint, with half of the log written."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(unbroken / "config.json", folder)
    (folder / "monitor.csv").write_text("#{")
    (folder / ".config.json.1.tmp").write_text("{")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / ".step_000000000000.zip.1.tmp").touch()
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "at its first step" in done.stdout
    assert_same_run(folder, unbroken)
    assert not list(folder.rglob(".*")), "temporary files are gone"


def test_one_process_at_a_time(unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "result.json").unlink()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = agent("--resume", folder, cwd=tmp_path)
    assert "in use by another process" in refusal(done)
    assert agent("--resume", folder, cwd=tmp_path).returncode == 0, "a lock that nobody holds is none"


def test_an_interrupted_closing_evaluation_is_made_up_for(unbroken, tmp_path):
    """A run without result.json is not finished, although its last model exists."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "result.json").unlink()
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, unbroken)


def test_a_checkpoint_is_an_agent_too(unbroken):
    model, state = newest_whole(unbroken / "checkpoints", MemoryPPO.load)
    assert state["callbacks"]
    newest = max((unbroken / "checkpoints").glob("step_*.zip"))
    assert model.num_timesteps == int(newest.stem.removeprefix("step_"))


FAILING = """
import gymnasium, os
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

class Failing(CartPoleEnv):
    steps = 0
    def step(self, action):
        Failing.steps += 1
        if Failing.steps > 200 and not os.path.exists("mended"):
            raise KeyError("the hinge broke")
        return super().step(action)

gymnasium.register("Failing-v0", entry_point=Failing)
"""


def test_an_environment_that_fails_leaves_a_run_that_goes_on(tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--env", "failing:Failing-v0", "--num-envs", "2", "--hidden-size", "8", "--n-steps", "8"]
    rest = ["--total-timesteps", "320", "--checkpoint-freq", "100", "--eval-freq", "0", "--final-episodes", "2"]
    done = agent(*options, *rest, cwd=tmp_path)
    assert done.returncode == 1
    assert "the hinge broke" in done.stdout
    assert 'raise KeyError("the hinge broke")' in done.stderr
    assert "--resume" in done.stdout
    folder = run_folder(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert "the hinge broke" in result["stopped"]
    (tmp_path / "mended").touch()
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "New episodes begin" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert "stopped" not in result
    assert result["references"]["random"]["episodes"] == 2


def test_other_peoples_environments_resume_with_fresh_episodes(tmp_path):
    options = ["--env", "CartPole-v1", "--total-timesteps", "4000", "--checkpoint-freq", "500", "--eval-freq", "0"]
    small = ["--algo", "memory_ppo", "--hidden-size", "8", "--num-envs", "4", "--final-episodes", "5"]
    process = Started("agent.py", *options, *small, cwd=tmp_path)
    while len(list(tmp_path.glob("runs/*/*/checkpoints/step_*.zip"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = run_folder(tmp_path)
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert MemoryPPO.load(folder / "final_model.zip").num_timesteps >= 4000
