"""train/tune.py --engine ray as a user runs it: many trials, cut short, and gone on with."""

import json
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray.tune")

from ray import tune

from ..scripts import TRAIN

TINY = ["--engine", "ray", "--steps", "2000", "--hidden-size", "4", "--seeds", "100", "101", "--trials", "3"]


def command(*args):
    return [sys.executable, str(TRAIN / "tune.py"), *map(str, args)]


def run(*args, cwd):
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, check=False, timeout=600)


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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_was_stopped_keeps_what_is_finished(how, tmp_path):
    """One trial at a time, stopped in the second: the first is not tried again, the second is."""
    output = tmp_path / "found.json"
    args = [*TINY, "--num-workers", "1", "--output", output]

    def reported():
        """What each trial has reported, the first to have begun first."""
        kept = (output.with_suffix(".ray") / "trials").glob("trial_*/result.json")
        return {path: path.read_text().splitlines() for path in sorted(kept, key=lambda path: path.parent.name[:20])}

    process = subprocess.Popen(command(*args), cwd=tmp_path, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 400
    while len(reported()) < 2 or not [*reported().values()][1]:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait() == (130 if how == signal.SIGINT else -how)
    assert not output.exists()
    (path, lines), _ = reported().items()
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert reported()[path] == lines
    assert len(lines) == 40
    result = json.loads(output.read_text())
    assert len(result["trials"]) == 3
    assert result["trials"][0]["value"] == json.loads(lines[-1])["area"]
    assert result["winner"]["pieces"] == 40


def test_a_search_killed_before_it_has_tried_anything_begins_again(tmp_path, monkeypatch):
    """Ray Tune writes the search down before it writes down how far it is."""
    monkeypatch.syspath_prepend(str(TRAIN))
    import ray_tuning
    from tune import Args

    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "tuner.pkl").write_text("half of")
    assert isinstance(ray_tuning.tuner(Args(), tmp_path), tune.Tuner)
