"""The compiled scan in forked and spawned processes, and with every kind of cache folder."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import SubprocVecEnv

from fwagents.sb3 import MemoryPPO
from tests.kernels.problems import distance, random_scan, results

RUN = """
import torch
from fwagents.cores import FastWeights
y, _ = FastWeights(4, 20)(torch.randn(5, 2, 4))
y.sum().backward()
print("ran")
"""


def make_env() -> gymnasium.Env:
    return gymnasium.make("fwagents.envs:PartialCatch-v0", size=6, visible_frames=2)


def start_run(cache: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def on_two_threads(seed: int) -> dict[str, np.ndarray]:
    """Nothing but the compiled scan: torch's own OpenMP threads do not survive a fork."""
    scan = random_scan(48, 16, 64, seed=seed)
    torch.set_num_threads(2)
    found = results(scan, "numba")
    torch.set_num_threads(1)
    return {name: x.detach().numpy() for name, x in found.items()}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers(method):
    """The parent has used its own threads before it makes the workers."""
    on_two_threads(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map_async(on_two_threads, [1, 2]).get(timeout=60)
    for seed, arrays in zip([1, 2], found, strict=True):
        truth = results(random_scan(48, 16, 64, seed=seed), "torch")
        assert max(distance({name: torch.from_numpy(x) for name, x in arrays.items()}, truth).values()) < 1e-4


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_agents_train_beside_subprocess_environments(method):
    """The parent runs the scan on its own threads, makes the workers, and goes on with it."""
    on_two_threads(0)
    env = SubprocVecEnv([make_env] * 2, start_method=method)
    model = MemoryPPO("MemoryPolicy", env, n_steps=6, n_epochs=1, policy_kwargs={"hidden_size": 20}, device="cpu")
    model.learn(24)
    env.close()
    assert model.num_timesteps == 24


INTERRUPTED = """
import signal, torch
from fwagents.cores import FastWeights

torch.set_num_threads(2)
core, x = FastWeights(8, 64), torch.randn(400, 32, 8)
expected, _ = core(x)

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, stop)
caught = 0
for i in range(30):
    try:
        # Once: Python drops an interrupt that falls into a destructor, so there must be none.
        signal.setitimer(signal.ITIMER_REAL, 0.001 * (i + 1))
        for _ in range(50):
            y, state = core(x)
            (y.sum() + state.A.sum()).backward()
    except KeyboardInterrupt:
        caught += 1
again, _ = core(x)
print(caught, torch.equal(again, expected))
"""


def test_an_interrupt_at_any_moment_leaves_the_scan_whole():
    found = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], text=True, capture_output=True, timeout=120, check=False
    )
    assert (found.stdout, found.returncode) == ("30 True\n", 0), found.stderr


@pytest.mark.slow
def test_processes_share_a_fresh_cache(tmp_path):
    """They compile and save at the same time; whoever comes after them loads, and says nothing."""
    runs = [start_run(tmp_path) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=200)
        assert (out, run.returncode) == ("ran\n", 0), err
        assert err.count("\n") == 1
        assert "compiling" in err
    assert list(tmp_path.rglob("*.nbc"))
    out, err = start_run(tmp_path).communicate(timeout=200)
    assert (out, err) == ("ran\n", "")


@pytest.mark.slow
def test_damaged_cache(tmp_path):
    start_run(tmp_path).communicate(timeout=200)
    for file in tmp_path.rglob("*.nbc"):
        file.write_bytes(b"not code")
    out, err = start_run(tmp_path).communicate(timeout=200)
    assert out == "ran\n"
    assert "compiling" in err


READ_ONLY = """
import numba.core.caching as caching

def refuse(*args, **kwargs):
    raise OSError(30, "Read-only file system")

def no_folder(*args, **kwargs):
    raise RuntimeError("cannot cache: no locator available")

{patch}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "patch", ["caching.IndexDataCacheFile.save = refuse", "caching.FunctionCache.__init__ = no_folder"]
)
def test_read_only_cache_folder(tmp_path, patch):
    """Refused by patch, since the superuser may write anywhere."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    code = READ_ONLY.format(patch=patch) + RUN
    found = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert found.stdout == "ran\n"
    assert found.stderr.count("stay in memory") == 1
