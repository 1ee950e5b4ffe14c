"""The result of a run of train/agent.py: how its agents are evaluated, also after divergence."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from fwagents.sb3 import MemoryPPO, make_vec_env

from .runs import CELL, TINY, run_folder
from .scripts import run


@pytest.mark.parametrize(("scale", "stopped"), [(1e5, "gradient norm is inf after 24 steps"), (1e20, None)])
@pytest.mark.parametrize("checked", [True, False])
def test_a_run_that_cannot_go_on_is_judged_by_how_it_plays(scale, stopped, checked, tmp_path, monkeypatch):
    """An IRNN's state overflows its loss, or also its action distribution, so that it cannot play either.

    The result is the same whether or not torch checks the arguments of its distributions.
    """
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", checked)
    small = ["--env-kwargs", "size=6", "--n-steps", "6", "--num-envs", "4", "--hidden-size", "8", "--eval-freq", "0"]
    core = ["--core", "irnn", "--core-kwargs", f"identity_scale={scale}", "--final-episodes", "20"]
    done = run("agent.py", *small, *core, cwd=tmp_path)
    assert done.returncode == 1
    assert "stopped: " in done.stdout
    assert done.stderr == ""
    result = json.loads((run_folder(tmp_path) / "result.json").read_text())
    assert result["stopped"] in done.stdout
    if stopped is None:
        assert "final_model" not in result
    else:
        assert result["stopped"].startswith(stopped)
        assert (result["steps"], result["final_model"]["episodes"]) == (24, 20)


@pytest.mark.parametrize(("tolerance", "reads"), [(1e9, 1), (1e-12, 3 - 1 / 200)])
def test_an_adaptive_memory_s_reads_are_counted(tolerance, reads, tmp_path):
    """There is one read if every move is small, and three if none is, except two at the first step: A is empty."""
    options = [*CELL, "--inner-steps", "adaptive", "--core-kwargs", f"tolerance={tolerance}", "max_inner_steps=3"]
    done = run("agent.py", *TINY, "--env", "PendulumNoVel-v1", "--normalize", "--n-steps", "20", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((run_folder(tmp_path) / "result.json").read_text())
    assert result["final_model"]["inner_steps_taken"] == pytest.approx(reads)


def test_normalized_agents_are_judged_and_shown_as_they_learned(tmp_path):
    options = ["--env", "PendulumNoVel-v1", "--normalize", "--n-steps", "20", "--eval-freq", "300"]
    assert run("agent.py", *TINY, *options, cwd=tmp_path).returncode == 0
    folder = run_folder(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    for name in ("final_model", "best_model"):
        path = folder / f"{name}.zip"
        model = MemoryPPO.load(path)
        with zipfile.ZipFile(path) as archive:
            statistics = pickle.loads(archive.read("vecnormalize.pkl")).obs_rms
        env = make_vec_env("PendulumNoVel-v1", 4, seed=2_000_000)
        obs, states, start, total = env.reset(), None, np.ones(4, dtype=bool), 0.0
        for _ in range(2 * 200):  # eight episodes, two in each environment
            seen = np.clip((obs - statistics.mean) / np.sqrt(statistics.var + 1e-8), -10, 10).astype(np.float32)
            actions, states = model.predict(seen, states, start, deterministic=True)
            obs, rewards, start, _ = env.step(actions)
            total += rewards.sum()
        assert result[name]["mean_return"] == pytest.approx(total / 8, rel=1e-5)
    # PendulumNoVel's returns are not known exactly, so a random player plays; the reported return is about -1200.
    random = result["references"]["random"]
    assert (random["episodes"], list(result["references"])) == (8, ["random"])
    assert -1900 < random["mean_return"] < -700
    shown = run("watch.py", folder, "--episodes", "1", "--no-window", "--fps", "1e6", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_the_interval_stays_within_the_returns(monkeypatch):
    """The interval of the mean lies within the observed returns, so it cannot exceed the largest possible return."""
    returns = np.array([1.0] * 97 + [-1.0] * 3)
    from fwagents.runs.run import interval

    low, high = interval(returns)
    assert 0.82 < low < 0.94 < high <= 1.0
    # The mean of a binomial with p = 0.97: exact bounds of its middle 95 %, in steps of 1 / 100.
    assert (low, high) == pytest.approx((0.88, 1.0), abs=0.021)
