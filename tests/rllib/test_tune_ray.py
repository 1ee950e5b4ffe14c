"""train/tune.py --engine ray as a user runs it: many trials, cut short, and gone on with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray.tune")

TUNE = Path(__file__).parent.parent.parent / "train" / "tune.py"
TINY = ["--engine", "ray", "--steps", "2000", "--hidden-size", "4", "--seeds", "100", "101", "--trials", "3"]


def run(*args, cwd):
    command = [sys.executable, str(TUNE), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def test_a_search_tries_all_and_knows_what_it_has_done(tmp_path):
    done = run(*TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "results" / "tuning" / "PartialCatch-v0-fast_weights.json"
    result = json.loads(path.read_text())
    assert len(result["trials"]) == 3
    first, *others = result["trials"]
    # The search begins with the environment's and the core's defaults.
    assert {"learning_rate": 1e-3, "vf_coef": 0.05, "num_envs": 64, "fast_lr": 0.03}.items() <= first["setting"].items()
    assert all(other["setting"] != first["setting"] for other in others)
    # Two seeds of twenty pieces each, for those that were not cut short.
    assert max(trial["pieces"] for trial in result["trials"]) == 40
    assert result["winner"]["pieces"] == 40
    assert result["winner"]["value"] == max(t["value"] for t in result["trials"] if t["pieces"] == 40)
    assert all(-1 <= trial["value"] <= 1 for trial in result["trials"])
    # The same command again finds all done.
    again = run(*TINY, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(path.read_text())["trials"] == result["trials"]
    other = run(*TINY, "--steps", "500", cwd=tmp_path)
    assert other.returncode == 2
    assert "holds a search with steps 2000, expected 500" in other.stderr
