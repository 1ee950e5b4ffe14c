"""A run that is killed at any moment and resumed has the same result as an uninterrupted run."""

import csv
import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwagents.sb3 import MemoryA2C, MemoryPPO, make_vec_env
from fwagents.sb3.callbacks import EpisodeLogCallback
from fwagents.sb3.checkpoints import CheckpointCallback, newest_whole, read_resume, restore, save_model

from .scripts import Started, run

OPTIONS = [
    *("--env-kwargs", "size=6", "visible_frames=2", "--n-steps", "7", "--num-envs", "4", "--hidden-size", "8"),
    *("--total-timesteps", "2800", "--checkpoint-freq", "112", "--eval-freq", "280", "--eval-episodes", "6"),
    *("--final-episodes", "10", "--n-epochs", "2", "--batch-size", "14", "--seed", "5", "--normalize"),
]


def agent(*args, cwd):
    return run("agent.py", *args, cwd=cwd)


def run_dir(cwd):
    (folder,) = (cwd / "runs" / "PartialCatch-v0").iterdir()
    return folder


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
    return run_dir(cwd)


def weights(folder):
    return dict(MemoryPPO.load(folder / "final_model.zip").policy.named_parameters())


def episodes(folder):
    with (folder / "monitor.csv").open() as file:
        next(file)
        return [(row["r"], row["l"]) for row in csv.DictReader(file)]


def progress(folder):
    with (folder / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    timing = {"time/fps", "time/time_elapsed", "time/iterations"}
    return [{name: value for name, value in row.items() if name not in timing} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("unbroken")
    done = agent(*OPTIONS, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return run_dir(cwd)


ONCE = [pytest.param([after], marks=pytest.mark.slow) for after in (1, 6)]


@pytest.mark.parametrize("kills", [*ONCE, [3, 9]], ids=str)
def test_killed_and_resumed_equals_unbroken(unbroken, kills, tmp_path):
    folder = killed(tmp_path, kills[0], *OPTIONS)
    for after in kills[1:]:
        killed(tmp_path, after, "--resume", str(folder))
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Resumed" in done.stdout

    torch.testing.assert_close(weights(folder), weights(unbroken), rtol=0, atol=0)
    assert episodes(folder) == episodes(unbroken)
    for name in ("timesteps", "results", "ep_lengths", "successes"):
        with np.load(folder / "evaluations.npz") as ours, np.load(unbroken / "evaluations.npz") as theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert (folder / "result.json").read_text() == (unbroken / "result.json").read_text()

    steps = [row["time/total_timesteps"] for row in progress(folder)]
    assert steps == [row["time/total_timesteps"] for row in progress(unbroken)]
    ours, theirs = ({s.step: s.value for s in _scalars(f, "train/value_loss")} for f in (folder, unbroken))
    assert ours == theirs


def _scalars(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Scalars(tag)


def test_a_broken_checkpoint_is_skipped_with_a_warning(unbroken, tmp_path):
    folder = killed(tmp_path, 5, *OPTIONS)
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
        done = agent("--resume", folder, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    done = agent("--resume", unbroken, "--seed", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--resume takes every option but --address" in done.stderr


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
    torch.testing.assert_close(weights(folder), weights(unbroken), rtol=0, atol=0)
    assert episodes(folder) == episodes(unbroken)
    assert (folder / "result.json").read_text() == (unbroken / "result.json").read_text()
    assert not list(folder.rglob(".*")), "temporary files are gone"


def test_one_process_at_a_time(unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "result.json").unlink()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = agent("--resume", folder, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "in use by another process" in done.stderr
    assert agent("--resume", folder, cwd=tmp_path).returncode == 0, "a lock that nobody holds is none"


def test_any_flipped_bit_is_harmless_or_found(tmp_path):
    """Bits are flipped in the zip's headers, which its checksums do not cover, and elsewhere."""
    env = make_vec_env("PartialCatch-v0", 1, size=4, visible_frames=1)
    model = MemoryPPO("MemoryPolicy", env, n_steps=3, policy_kwargs={"hidden_size": 2, "core": "gru"})
    older, path = tmp_path / "step_0.zip", tmp_path / "step_1.zip"
    save_model(model, older, {"a": 0})
    save_model(model, path, {"a": 1})
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    rng = random.Random(0)
    places = [*range(directory, len(whole)), *rng.sample(range(directory), 60)]
    found = 0
    for place in rng.sample(places, 250):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded, state = newest_whole(tmp_path, MemoryPPO.load)
        found += state["a"] == 0
        torch.testing.assert_close(loaded.policy.state_dict(), model.policy.state_dict(), rtol=0, atol=0)
    assert found > 60


@pytest.mark.parametrize("cut", [0, 3, 30, 60, 10_000])
def test_a_monitor_file_that_is_too_short_ends_with_a_whole_line(cut, tmp_path):
    path = tmp_path / "monitor.csv"
    text = '#{"t_start": 1.0, "env_id": "x"}\nr,l,t\n' + "".join(f"1.0,{line},0.5\n" for line in range(10))
    path.write_text(text[:cut])
    callback = EpisodeLogCallback(path, "x")
    callback.set_state({"bytes": len(text)})
    callback._on_training_start()
    callback._on_training_end()
    kept = path.read_text()
    assert "\0" not in kept
    assert kept.count("r,l,t\n") == 1
    rows = kept.split("r,l,t\n")[1]
    assert text.split("r,l,t\n")[1].startswith(rows)
    assert rows.count("\n") == max(0, text[:cut].count("\n") - 2)


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
    (folder,) = tmp_path.glob("runs/*/*")
    result = json.loads((folder / "result.json").read_text())
    assert "the hinge broke" in result["stopped"]
    (tmp_path / "mended").touch()
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "New episodes begin" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert "stopped" not in result
    assert result["references"]["random"]["episodes"] == 2


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
    process = Started("agent.py", *OPTIONS, cwd=tmp_path)
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


def test_the_interval_stays_within_the_returns(monkeypatch):
    """The interval of the mean lies within the observed returns, so it cannot exceed the largest possible return."""
    returns = np.array([1.0] * 97 + [-1.0] * 3)
    from fwagents.runs.run import interval

    low, high = interval(returns)
    assert 0.82 < low < 0.94 < high <= 1.0
    # The mean of a binomial with p = 0.97: exact bounds of its middle 95 %, in steps of 1 / 100.
    assert (low, high) == pytest.approx((0.88, 1.0), abs=0.021)


def test_an_interrupted_closing_evaluation_is_made_up_for(unbroken, tmp_path):
    """A run without result.json is not finished, although its last model exists."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "result.json").unlink()
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "result.json").read_text() == (unbroken / "result.json").read_text()
    torch.testing.assert_close(weights(folder), weights(unbroken), rtol=0, atol=0)


def test_a_checkpoint_is_an_agent_too(unbroken):
    model, state = newest_whole(unbroken / "checkpoints", MemoryPPO.load)
    assert state["callbacks"]
    newest = max((unbroken / "checkpoints").glob("step_*.zip"))
    assert model.num_timesteps == int(newest.stem.removeprefix("step_"))


def test_saving_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    model = MemoryPPO("MemoryPolicy", make_vec_env("PartialCatch-v0", 2, size=4, visible_frames=1), n_steps=3)
    path = tmp_path / "model.zip"
    save_model(model, path, {"a": 1})
    before = path.read_bytes()

    def fails(self, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryPPO, "save", fails)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]
    assert read_resume(path) == {"a": 1}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")
    path.write_bytes(path.read_bytes()[: len(before) // 2])
    with pytest.raises(ValueError, match=r"model.zip is not a whole checkpoint"):
        read_resume(path)


def test_other_peoples_environments_resume_with_fresh_episodes(tmp_path):
    options = ["--env", "CartPole-v1", "--total-timesteps", "4000", "--checkpoint-freq", "500", "--eval-freq", "0"]
    small = ["--algo", "memory_ppo", "--hidden-size", "8", "--num-envs", "4", "--final-episodes", "5"]
    process = Started("agent.py", *options, *small, cwd=tmp_path)
    while len(list(tmp_path.glob("runs/*/*/checkpoints/step_*.zip"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = tmp_path.glob("runs/CartPole-v1/*")
    done = agent("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert MemoryPPO.load(folder / "final_model.zip").num_timesteps >= 4000


@pytest.mark.parametrize("algorithm", [RecurrentPPO, MemoryPPO, MemoryA2C])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_algorithm_goes_on_from_its_checkpoint(algorithm, wrapped, tmp_path):
    """In one process, a model loaded from a checkpoint ends with the same weights as the uninterrupted model."""

    def environment():
        env = make_vec_env("PartialCatch-v0", 3, seed=1, size=6, visible_frames=2)
        return VecNormalize(env) if wrapped else env

    # A rollout is no multiple of the episode's five steps, so that the memory is carried over.
    sizes = {} if algorithm is MemoryA2C else {"batch_size": 21, "n_epochs": 2}
    model = algorithm("MemoryPolicy", environment(), n_steps=7, seed=2, policy_kwargs={"hidden_size": 8}, **sizes)
    model.learn(210, callback=CheckpointCallback(tmp_path, 84, []))
    paths = sorted(tmp_path.iterdir())
    assert [int(p.stem.removeprefix("step_")) for p in paths] == [0, 84, 168]
    for path in paths:
        copy = algorithm.load(path, env=environment(), force_reset=False)
        copy.set_logger(model.logger)
        restore(copy, [], read_resume(path))
        copy.learn(210 - copy.num_timesteps, reset_num_timesteps=False)
        assert copy.num_timesteps == model.num_timesteps
        torch.testing.assert_close(
            dict(copy.policy.named_parameters()), dict(model.policy.named_parameters()), rtol=0, atol=0
        )
