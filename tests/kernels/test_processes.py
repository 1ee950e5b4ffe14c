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
from numba import types
from stable_baselines3.common.vec_env import SubprocVecEnv

from fwagents.kernels.cpu import compiled
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
    """Run only the compiled scan, since torch's own OpenMP threads do not survive a fork."""
    scan = random_scan(48, 16, 64, seed=seed)
    torch.set_num_threads(2)
    found = results(scan, "numba")
    torch.set_num_threads(1)
    return {name: x.detach().numpy() for name, x in found.items()}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers(method):
    """The parent uses its own threads before it starts the workers."""
    on_two_threads(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map_async(on_two_threads, [1, 2]).get(timeout=60)
    for seed, arrays in zip([1, 2], found, strict=True):
        truth = results(random_scan(48, 16, 64, seed=seed), "torch")
        assert max(distance({name: torch.from_numpy(x) for name, x in arrays.items()}, truth).values()) < 1e-4


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_agents_train_beside_subprocess_environments(method):
    """The parent runs the scan on its own threads before and after it starts the workers."""
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
    """The processes compile and save at the same time; a later process loads without a message."""
    runs = [start_run(tmp_path) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=200)
        assert (out, run.returncode) == ("ran\n", 0), err
        assert err.count("\n") == 1
        assert "compiling" in err
    names = {path.name.rpartition(".")[0] for path in (tmp_path / "fwagents" / "kernels").iterdir()}
    assert len(names) == 5, "of every kernel one file, and nothing else"
    out, err = start_run(tmp_path).communicate(timeout=200)
    assert (out, err) == ("ran\n", "")


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"NUMBA_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a/fwagents/kernels"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/fwagents/kernels"),
        ({"HOME": "/c"}, "/c/.cache/fwagents/kernels"),
    ],
    ids=len,
)
def test_where_kernels_are_kept(variables, folder, monkeypatch):
    """The folder belongs to the user, not to the installation."""
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(compiled._folder()) == folder


def triple(out, x):
    for i in range(len(out)):
        out[i] = 3 * x[i]


@pytest.fixture
def compiled_triple(tmp_path, monkeypatch):
    """Return a function that compiles or loads a small kernel and says which, and the folder of its cache."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    hits = []
    load = compiled._DiskCache.load_overload

    def noting(self, *args):
        found = load(self, *args)
        hits.append("compiled" if found is None else "loaded")
        return found

    monkeypatch.setattr(compiled._DiskCache, "load_overload", noting)

    def run():
        array = types.float64[:]
        kernel = compiled.compile_kernel(triple, [array, array])
        out = np.zeros(3)
        kernel(out, np.arange(3.0))
        assert out.tolist() == [0, 3, 6]
        return hits[-1]

    return run, tmp_path / "fwagents" / "kernels"


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "short": lambda content: content[:10],
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "text": lambda content: b"not code",
    "longer": lambda content: content + b"x",
    **{
        f"bit{share}": lambda content, share=share: bytes(
            byte ^ (1 if i == int(share * (len(content) - 1)) else 0) for i, byte in enumerate(content)
        )
        for share in (0, 0.001, 0.3, 0.7, 1)
    },
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_kernel_is_compiled_anew(damage, compiled_triple):
    run, folder = compiled_triple
    assert [run(), run()] == ["compiled", "loaded"]
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert [run(), run()] == ["compiled", "loaded"]
    assert [path.name for path in folder.iterdir()] == [file.name]


def test_a_folder_in_a_file_s_place_is_no_obstacle(compiled_triple, capsys, monkeypatch):
    run, folder = compiled_triple
    run()
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    monkeypatch.setattr(compiled, "_said", set())
    assert run() == "compiled"
    assert file.name in capsys.readouterr().err


def test_kernels_of_other_versions_do_not_pile_up(compiled_triple, monkeypatch):
    run, folder = compiled_triple
    for version in range(12):
        monkeypatch.setattr(compiled, "_versions", lambda version=version: bytes([version]))
        assert run() == "compiled"
        assert len(list(folder.iterdir())) == min(version + 1, compiled.KEPT)
    assert run() == "loaded"


def test_a_folder_that_cannot_be_written(tmp_path, compiled_triple, capsys, monkeypatch):
    """A file with the folder's name makes writing fail even for the superuser."""
    run, _ = compiled_triple
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(compiled, "_said", set())
    assert [run(), run()] == ["compiled", "compiled"]
    said = capsys.readouterr().err
    assert said.count("stay in memory") == 1
    assert str(tmp_path / "file") in said


@pytest.mark.slow
def test_damaged_cache(tmp_path):
    """All files of the real kernels are damaged."""
    start_run(tmp_path).communicate(timeout=200)
    for file in tmp_path.rglob("*.kernel"):
        file.write_bytes(file.read_bytes()[:-1])
    out, err = start_run(tmp_path).communicate(timeout=200)
    assert out == "ran\n"
    assert "compiling" in err
