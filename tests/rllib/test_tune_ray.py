"""train/tune.py --engine ray as a user runs it: many trials, cut short, and gone on with."""

import fcntl
import json
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray.tune")

from ..scripts import TRAIN

TINY = ["--engine", "ray", "--total-timesteps", "2000", "--hidden-size", "4", "--seeds", "100", "101", "--trials", "3"]


def command(*args):
    return [sys.executable, str(TRAIN / "tune.py"), *map(str, args)]


def run(*args, cwd):
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, check=False, timeout=600)


def test_a_search_tries_all_and_knows_what_it_has_done(tmp_path):
    search = [*TINY, "--core", "fast_weights"]
    done = run(*search, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "runs" / "tuning" / "PartialCatch-v0-fast_weights.json"
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
    again = run(*search, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(path.read_text())["trials"] == result["trials"]
    other = run(*search, "--total-timesteps", "500", cwd=tmp_path)
    assert other.returncode == 2
    assert "holds a search with steps 2000, expected 500" in other.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_was_stopped_keeps_what_is_finished(how, tmp_path):
    """Stopped in its second trial, the search tries neither it nor the first a second time, as far as they had come."""
    output = tmp_path / "found.json"
    journal = output.with_suffix(".ray") / "journal.jsonl"
    args = [*TINY, "--num-workers", "1", "--output", output]

    def reported():
        """What each setting has reported, the first to have begun first."""
        reports = {}
        for line in map(json.loads, journal.read_text().splitlines() if journal.is_file() else ()):
            reports.setdefault(json.dumps(line["setting"]), []).append(line["report"])
        return reports

    process = subprocess.Popen(command(*args), cwd=tmp_path, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 400
    while len(reported()) < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait() == (130 if how == signal.SIGINT else -how)
    assert not output.exists()
    before = reported()
    with open(journal, "a") as file:
        file.write('{"setting": {"learning')  # as if killed while it writes
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    after = reported()
    (first, second), (*_, third) = before, after
    assert list(after) == [first, second, third]
    assert len(before[first]) == 40
    assert after[first] == before[first]
    assert after[second][: len(before[second])] == before[second]
    result = json.loads(output.read_text())
    for trial, (setting, reports) in zip(result["trials"], after.items(), strict=True):
        assert trial["setting"] == json.loads(setting)
        assert trial["pieces"] == len(reports)
        assert trial["value"] == reports[-1]["area"]
        assert trial["seconds"] == reports[-1]["seconds"]
    assert result["winner"]["pieces"] == 40


def test_a_run_that_was_stopped_in_its_middle_goes_on_as_if_it_had_not_been(tmp_path):
    """The journal cut after 27 of 40 pieces of the only trial: the rest comes out as before."""
    args = [*TINY[:-1], "1", "--output", tmp_path / "found.json"]
    journal = tmp_path / "found.ray" / "journal.jsonl"

    def areas():
        return [json.loads(line)["report"]["area"] for line in journal.read_text().splitlines()]

    done = run(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = areas()
    assert len(whole) == 40
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:27]))
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert areas() == whole


def test_a_search_that_another_process_is_at_is_left_alone(tmp_path):
    folder = tmp_path / "found.ray"
    folder.mkdir()
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(*TINY, "--output", tmp_path / "found.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "another process is at the search in" in done.stderr


def test_a_journal_that_is_none_is_named(tmp_path):
    journal = tmp_path / "found.ray" / "journal.jsonl"
    journal.parent.mkdir()
    journal.write_text('{"setting": {}, "report": {"area": 0.0}}\nnothing\n')
    done = run(*TINY, "--output", tmp_path / "found.json", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{journal}, line 2 is b'nothing', expected a setting and its report" in done.stderr
    assert journal.read_text().endswith("nothing\n")
