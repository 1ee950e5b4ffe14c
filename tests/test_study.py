"""fwagents/runs/study.py: workers share a search, die, and are replaced. A function replaces training."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

pytest.importorskip("optuna")

# Records every training run with its process; the value is the learning rate. While a file "wait" exists, it is slow.
SCRIPT = """
import json, os, sys, time
from pathlib import Path

from fwagents.runs import study
from fwagents.runs.search import Args

def train(args, setting, seed, report=None):
    with open("trained", "a") as file:
        file.write(json.dumps([os.getpid(), args.total_timesteps, seed, setting]) + "\\n")
    for piece in range(1, 21):
        if report is not None:
            report(piece, setting["learning_rate"])
    time.sleep(0.05)
    while Path("wait").exists():
        time.sleep(0.05)
    return setting["learning_rate"]

study.train, study.known_settings, study.POLL = train, lambda args: [{"learning_rate": r} for r in KNOWN], 0.05
study.commit = lambda _: "abc1234"
if __name__ == "__main__":
    words = json.loads(sys.argv[1])
    try:
        study.search(Args(**{**words, "output": Path("found.json"), "seeds": (1, 2)}))
    except ValueError as error:
        sys.exit(f"error: {error}")
"""
KNOWN = (0.004, 0.001, 0.002)


class Bench:
    """A folder in which searches run."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "script.py").write_text(f"KNOWN = {KNOWN}\n{SCRIPT}")

    def start(self, **options):
        command = [sys.executable, "script.py", json.dumps({"core": "lstm", "trials": 8, **options})]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, **options):
        """Run a search and return its standard error, which is empty on success."""
        process = self.start(**options)
        _, err = process.communicate(timeout=300)
        assert bool(err) == bool(process.returncode), err
        return err

    @property
    def trained(self):
        """Return the training runs in order: process, steps, seed, setting."""
        path = self.folder / "trained"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(pid, steps, seed, json.dumps(setting)) for pid, steps, seed, setting in map(json.loads, lines)]

    def wait_for(self, count):
        """Wait until ``count`` training runs have begun."""
        end = time.monotonic() + 200
        while len(self.trained) < count:
            assert time.monotonic() < end
            time.sleep(0.05)

    @property
    def result(self):
        return json.loads((self.folder / "found.json").read_text())

    def check(self, count):
        """Check that there are ``count`` trials, each setting once with both seeds, including the current settings."""
        result = self.result
        settings = [json.dumps(trial["setting"]) for trial in result["trials"]]
        assert len(settings) == len(set(settings)) == count
        assert all(trial["areas"] == 2 * [trial["setting"]["learning_rate"]] for trial in result["trials"])
        assert {trial["setting"]["learning_rate"] for trial in result["trials"]} > set(KNOWN)
        assert result["winner"] == max(result["trials"], key=lambda trial: trial["value"])
        assert result["over"]
        return settings


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_many_workers_make_one_search(bench):
    """Two processes of one command and one of another make no extra trial and train nothing twice."""
    processes = [bench.start(num_workers=2), bench.start()]
    for process in processes:
        assert process.communicate(timeout=300)[1] == ""
    settings = bench.check(8)
    assert Counter(row[2:] for row in bench.trained) == {(seed, setting): 1 for seed in (1, 2) for setting in settings}
    assert len({row[0] for row in bench.trained}) > 1
    before = bench.result["trials"]
    assert bench.run(trials=9) == ""
    assert bench.result["trials"][:8] == before
    bench.check(9)


def test_what_a_killed_worker_tried_is_tried_again(bench):
    """Another worker of the search repeats the trial, or else the next call does."""
    (bench.folder / "wait").touch()
    first, second = bench.start(), bench.start()
    bench.wait_for(2)
    (lost,) = {row[3] for row in bench.trained if row[0] == first.pid}
    first.send_signal(signal.SIGKILL)
    first.wait()
    (bench.folder / "wait").unlink()
    assert second.communicate(timeout=300)[1] == ""
    assert lost in bench.check(8)
    (bench.folder / "wait").touch()
    count = len(bench.trained)
    third = bench.start(trials=10)
    bench.wait_for(count + 1)
    lost = bench.trained[-1][3]
    third.send_signal(signal.SIGKILL)
    third.wait()
    (bench.folder / "wait").unlink()
    assert bench.run(trials=10) == ""
    assert lost in bench.check(10)


def test_halving_stops_what_is_behind(bench):
    """The best setting comes first and runs to its end; the others are stopped after a quarter of the first run."""
    assert bench.run(trials=3, pruner="halving") == ""
    best, *others = bench.result["trials"]
    assert best["value"] == 0.004
    assert [trial["value"] for trial in others] == [None, None]
    assert [trial["stopped"] for trial in others] == [f"by halving: {rate:.3f} after 5 pieces" for rate in KNOWN[1:]]
    assert bench.result["winner"] == best
    assert [row[2] for row in bench.trained] == [1, 2, 1, 1]
    assert "holds a search with pruner 'halving', expected 'none'" in bench.run(trials=3)


def test_every_finalist_is_trained_once(bench):
    processes = [bench.start(finalists=3, final_steps=777) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=300)[1] == ""
    long = [row for row in bench.trained if row[1] == 777]
    finalists = bench.result["finalists"]
    assert len(finalists) >= 3
    assert Counter(row[2:] for row in long) == {
        (seed, json.dumps(row["setting"])): 1 for seed in (1, 2) for row in finalists
    }


def test_a_journal_that_was_cut_is_mended(bench):
    assert bench.run(trials=4) == ""
    with open(bench.folder / "found.journal", "a") as journal:
        journal.write('{"op_code": 4, "worker')
    assert bench.run(trials=5) == ""
    bench.check(5)


@pytest.mark.parametrize("content", ["nothing", "nothing\n", '{"op_code": 4}\n'])
def test_a_journal_that_is_none_is_named(content, bench):
    (bench.folder / "found.journal").write_text(content)
    assert "found.journal is not the journal of a search" in bench.run()
    assert (bench.folder / "found.journal").read_text().startswith(content)
    assert not (bench.folder / "found.json").exists()
