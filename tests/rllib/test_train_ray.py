"""train/agent.py --engine ray as a user runs it, on one machine and on a cluster that loses a node."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("ray.rllib")

import ray
from ray.cluster_utils import Cluster

from fwagents.sb3 import MemoryPPO

from ..scripts import TRAIN
from ..scripts import run as run_script

TINY = [
    *("--engine", "ray", "--num-envs", "8", "--env-kwargs", "size=6", "--hidden-size", "8", "--n-steps", "6"),
    *("--final-episodes", "8", "--eval-episodes", "4", "--eval-freq", "96", "--checkpoint-freq", "96"),
]
STORE = 80 * 2**20


def command(*args):
    return [sys.executable, str(TRAIN / "agent.py"), *map(str, args)]


def run(*args, cwd):
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def steps_of(folder):
    return [int(path.name.removeprefix("step_")) for path in sorted((folder / "checkpoints").glob("step_*"))]


def wait_until(condition, process, seconds=400):
    """Wait for a condition while a process runs."""
    for _ in range(seconds * 10):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("it did not come")


def healthy(folder):
    """Return the last logged number of env runners."""
    with (folder / "progress.csv").open(newline="") as file:
        counts = [row.get("time/env_runners") for row in csv.DictReader(file)]
    return int(next((count for count in reversed(counts) if count), 0))


def run_folder(cwd):
    found = list((cwd / "runs" / "PartialCatch-v0").glob("*")) if (cwd / "runs").exists() else []
    return found[0] if found else None


@pytest.mark.parametrize("algo", ["memory_ppo", "appo"])
def test_a_run_has_the_same_folder_and_the_same_closing_table(algo, tmp_path, monkeypatch):
    # The variable names a dead cluster, which must be ignored without --address.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    # A minibatch is one environment's rollout, which RLlib, with its added step, would round down to none.
    batch = ("--batch-size", 6) if algo == "memory_ppo" else ()
    done = run(*TINY, "--num-workers", 1, "--algo", algo, *batch, "--total-timesteps", 200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "result.json", "progress.csv", "monitor.csv", "evaluations.npz", "checkpoints"} <= names
    assert {"best_model.zip", "final_model.zip"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    result = json.loads((folder / "result.json").read_text())
    assert result["final_model"]["episodes"] == 8
    assert result["steps"] >= 200
    for word in ("mean return", "95 % interval", "final_model", "Watch it play:", "tensorboard.main --logdir"):
        assert word in done.stdout, word
    # All episodes are logged; their length is the board's height less one.
    lengths = {row.split(",")[1] for row in (folder / "monitor.csv").read_text().splitlines()[2:]}
    assert lengths == {"5"}
    # The trained agent loads like any other.
    model = MemoryPPO.load(folder / "final_model.zip")
    assert model.policy.actor_core.hidden_size == 8


@pytest.mark.parametrize(
    ("around", "size"),
    [
        # The observation is two boards of 6 x 6.
        (("--wrappers", "gymnasium.wrappers:DelayObservation(delay=1)", "--frame-stack", 2), 2 * 36),
        # The observation is a board, the last action and reward, and the flag.
        (("--observe", "action", "reward"), 36 + 3 + 1 + 1),
    ],
)
def test_what_goes_around_the_environment_goes_around_it_on_the_runners(around, size, tmp_path):
    done = run(*TINY, *around, "--num-workers", 1, "--total-timesteps", 96, "--core", "gru", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    model = MemoryPPO.load(folder / "final_model.zip")
    assert model.observation_space.shape[0] == size
    # The game has five steps.
    lengths = {row.split(",")[1] for row in (folder / "monitor.csv").read_text().splitlines()[2:]}
    assert lengths == {"5"}


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path):
    process = subprocess.Popen(command(*TINY, "--num-workers", 1, "--total-timesteps", 100_000), cwd=tmp_path)
    wait_until(lambda: run_folder(tmp_path) and len(steps_of(run_folder(tmp_path))) > 2, process)
    process.kill()
    process.wait()
    folder = run_folder(tmp_path)
    kept = steps_of(folder)[-1]
    config = json.loads((folder / "config.json").read_text())
    config["args"]["total_timesteps"] = kept + 96
    (folder / "config.json").write_text(json.dumps(config))
    done = run("--resume", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"at {kept:,} steps" in done.stdout
    assert json.loads((folder / "result.json").read_text())["steps"] >= kept + 96
    evaluated = np.load(folder / "evaluations.npz")["timesteps"]
    assert (np.diff(evaluated) > 0).all()
    assert evaluated[0] <= kept < evaluated[-1], "evaluations of both halves"


@pytest.fixture
def cluster():
    """Start a cluster in processes of this machine, whose first node does not play."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_run_survives_the_loss_of_a_node(cluster, tmp_path):
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    args = [*TINY, "--num-workers", 2, "--address", cluster.address, "--total-timesteps", 1_000_000]
    process = subprocess.Popen(command(*args), cwd=tmp_path)
    wait_until(lambda: run_folder(tmp_path) and len(steps_of(run_folder(tmp_path))) > 2, process)
    folder = run_folder(tmp_path)
    before = steps_of(folder)[-1]
    cluster.remove_node(nodes[1], allow_graceful=False)
    wait_until(lambda: healthy(folder) == 1 and steps_of(folder)[-1] > before + 200, process)
    # A new node takes over the lost runner.
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    wait_until(lambda: healthy(folder) == 2, process)
    process.send_signal(signal.SIGTERM)  # Ray would install its own handler
    assert process.wait(timeout=120) == 130
    assert (folder / "interrupted_model.zip").exists()
    steps = steps_of(folder)
    assert steps == sorted(steps)
    assert np.diff(steps).max() < 500, "no rollout was lost from the count"


BROKEN = """
import gymnasium as gym

class Broken(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 1, (2,)), gym.spaces.Discrete(2)

    def reset(self, **_):
        return self.observation_space.sample(), {}

    def step(self, _):
        raise ZeroDivisionError

gym.register("Broken-v0", Broken)
"""


def test_an_environment_that_fails_ends_the_run(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tiny = ("--engine", "ray", "--num-envs", 2, "--num-workers", 1, "--hidden-size", 8, "--n-steps", 6)
    done = run("--env", "broken:Broken-v0", *tiny, "--eval-freq", 0, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "stopped: 3 env runners were lost without a step between them" in done.stdout


def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path):
    done = run(*TINY, "--address", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: --address is '127.0.0.1:1', expected that of a running cluster" in done.stderr
    assert not os.listdir(tmp_path)


def test_the_agent_that_does_not_play_has_few_environments(monkeypatch):
    from fwagents.runs.agent import Args
    from fwagents.runs.ray import RayRun, check_finite

    run = RayRun(Args(num_envs=64, n_steps=8, batch_size=16, critic_core="shared"), {}, {})
    assert run.model.n_envs == run.venv.num_envs == 2
    assert run.config.num_envs_per_env_runner == 32
    assert run.config.minibatch_size == 18, "two rollouts, each with its step to bootstrap from"
    with pytest.raises(ValueError, match="batch_size is 12, expected a multiple of chunk_length"):
        RayRun(Args(num_envs=64, n_steps=8, batch_size=12), {}, {})
    check_finite({"vf_loss": 1.0, "vf_explained_var": float("-inf")})
    with pytest.raises(FloatingPointError, match="train/value_loss is nan"):
        check_finite({"vf_loss": float("nan")})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--normalize"], "--normalize does nothing with --engine ray, expected --engine sb3"),
        (["--algo", "memory_a2c"], "--algo is 'memory_a2c', expected memory_ppo or appo with --engine ray"),
        (["--num-workers", "3"], "--num-workers is 3, expected 0 or a divisor of --num-envs, 8"),
        (
            ["--vec-env", "subproc"],
            "--vec-env is 'subproc', expected auto or dummy with --engine ray: runners are processes",
        ),
        (
            ["--engine", "sb3", "--algo", "appo"],
            "--algo is 'appo', expected memory_ppo or memory_a2c or recurrent_ppo with --engine sb3",
        ),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_a_mistake_is_one_clear_line(args, message, tmp_path):
    done = run_script("agent.py", *TINY, *args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {message}\n"
    assert not os.listdir(tmp_path)
