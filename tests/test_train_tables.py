"""experiments/tables.py: what is missing is run once, in order, and goes on; with a script in place of the training."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from .scripts import Finished

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "train"

# Stands in for train/retrieval.py: notes how it was called, and answers at once with an NLL that the options give.
SCRIPT = """
import json, pathlib, sys, time

root = pathlib.Path(__file__).parent
with open(root / "journal", "a") as journal:
    journal.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "--resume":
    run = pathlib.Path(sys.argv[2])
    args = json.loads((run / "config.json").read_text())["args"]
else:
    words, args = sys.argv[1:], {}
    while words:
        name = words.pop(0)[2:]
        if name.startswith("no-"):
            args[name[3:].replace("-", "_")] = False
        else:
            text = words.pop(0)
            try:
                args[name.replace("-", "_")] = json.loads(text)
            except ValueError:
                args[name.replace("-", "_")] = text
    if args["core"] == "broken":
        sys.exit("error: no such core")
    run = pathlib.Path(args["log_dir"]) / "retrieval" / str(time.time_ns())
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"args": args}))
    (run / "checkpoint.pt").touch()
    if (root / "wait").exists():
        time.sleep(60)
rate = args["learning_rate"]
nll = None if rate > 0.1 else abs(rate - 0.002) + 0.1 * (args["lr_schedule"] == "constant") + args.get("decay", 0)
result = {
    "config": args, "validation_error": 1.0, "validation_nll": nll, "test_error": 2.0, "updates": args["updates"],
    "stopped": "updates" if nll is not None else "loss is nan", "seconds": args["updates"] / 500, "command": "",
    "commit": "",
}
(run / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def train(monkeypatch):
    """The modules of train/ by their names."""
    from experiments import cells, jobs, tables

    monkeypatch.setattr(jobs, "POLL", 0.02)
    return type("Train", (), {"cells": cells, "jobs": jobs, "tables": tables})


class Bench:
    """Tables over a few cells, run by the script above."""

    def __init__(self, train, folder, cells):
        (folder / "retrieval.py").write_text(SCRIPT)
        self.train, self.folder, self.cells = train, folder, cells

    def tables(self, only=("retrieval", "harder"), search_only=False):
        wanted = [cell for cell in self.cells if cell.table in only]
        folders = self.folder / "results", self.folder / "runs", self.folder
        return self.train.tables.Tables(self.cells, *folders, wanted, search_only)

    def work(self, only=("retrieval", "harder"), search_only=False, **budget):
        with open(self.folder / "lock", "w") as lock:
            return self.tables(only, search_only).work(self.train.jobs.Budget(**budget), lock)

    @property
    def journal(self):
        path = self.folder / "journal"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def settings(self, begin=0):
        """What every call since was asked for, as (learning rate, schedule, decay, updates, seed)."""
        names = ("--learning-rate", "--lr-schedule", "--decay", "--updates", "--seed")
        return [
            tuple(call[call.index(name) + 1] if name in call else None for name in names)
            for call in self.journal[begin:]
        ]


@pytest.fixture
def bench(train, tmp_path):
    cell = train.cells.Cell(
        table="retrieval",
        name="fast_weights-5",
        script="retrieval",
        options={"core": "fast_weights", "hidden_size": 5},
        updates=100,
        ms=2.0,
        start={"decay": 0.9},
        stages=(
            tuple({"learning_rate": rate, "lr_schedule": "cosine"} for rate in (0.005, 0.00125, 0.5)),
            ({"learning_rate": train.cells.Times(0.5)}, {"learning_rate": train.cells.Times(2.0)}),
            ({"lr_schedule": "constant"},),
            ({"decay": 0.8}, {"decay": 0.95}),
        ),
        search_updates=40,
        seeds=(0, 1),
    )
    more = train.cells.Cell(
        table="harder",
        name="fast_weights-5-k8",
        script="retrieval",
        options={"core": "fast_weights", "hidden_size": 5, "pairs": 8},
        updates=200,
        ms=3.0,
        stages=(({"decay": 0.7}, {"decay": 0.99}),),
        search_updates=50,
        settings_of="fast_weights-5",
        seeds=(0,),
    )
    return Bench(train, tmp_path, [cell, more])


TRIALS = [
    *((rate, "cosine", "0.9", "40", "100") for rate in ("0.005", "0.00125", "0.5")),
    *((rate, "cosine", "0.9", "40", "100") for rate in ("0.000625", "0.0025")),
    ("0.0025", "constant", "0.9", "40", "100"),
    ("0.0025", "cosine", "0.8", "40", "100"),
    ("0.0025", "cosine", "0.95", "40", "100"),
]
REPORTED = [("0.0025", "cosine", "0.8", "100", "0"), ("0.0025", "cosine", "0.8", "100", "1")]
HARDER = [
    ("0.0025", "cosine", "0.7", "50", "100"),
    ("0.0025", "cosine", "0.99", "50", "100"),
    ("0.0025", "cosine", "0.7", "200", "0"),
]


def test_searches_come_first_then_the_seeds_with_the_winner_each_once(bench):
    """0.5 diverges and comes last; twice 0.00125 and decay 0.8 have the lowest NLL; the harder cell begins there."""
    assert bench.work(num_workers=1) == 0
    assert bench.settings() == [*TRIALS, *HARDER[:2], REPORTED[0], HARDER[2], REPORTED[1]]
    assert all("--no-test" in call for call in bench.journal[:10])
    assert not any("--no-test" in call for call in bench.journal[10:])
    assert bench.work() == 0
    assert len(bench.journal) == 13, "nothing is run twice"
    results = bench.folder / "results"
    assert sorted(path.name for path in (results / "retrieval").iterdir()) == [
        "fast_weights-5-k8-s0.json",
        "fast_weights-5-s0.json",
        "fast_weights-5-s1.json",
    ]
    search = json.loads((results / "search" / "fast_weights-5.json").read_text())
    assert search["best"] == {"learning_rate": 0.0025, "lr_schedule": "cosine", "decay": 0.8}
    assert [trial["stopped"] for trial in search["trials"]].count("loss is nan") == 1
    assert len(search["trials"]) == 8


def test_a_table_alone_brings_the_searches_it_needs_and_no_more(bench):
    assert bench.work(num_workers=1, only=("harder",)) == 0
    assert bench.settings() == [*TRIALS, *HARDER]


def test_the_search_alone(bench):
    assert bench.work(num_workers=1, only=("retrieval",), search_only=True) == 0
    assert bench.settings() == TRIALS
    assert bench.work(num_workers=2, only=("retrieval",)) == 0
    assert sorted(bench.settings(8)) == sorted(REPORTED)


def test_what_is_stopped_goes_on(bench, capsys):
    (bench.folder / "wait").touch()
    begun = time.monotonic()
    assert bench.work(minutes=0.05, only=("retrieval",)) == 0
    assert time.monotonic() - begun < 30
    assert "Stopped; the same command goes on" in capsys.readouterr().out
    assert bench.settings() == TRIALS[:2] or bench.settings() == [TRIALS[1], TRIALS[0]]
    assert not (bench.folder / "results").exists()
    (bench.folder / "wait").unlink()
    assert bench.work(num_workers=1, only=("retrieval",)) == 0
    resumed = [call for call in bench.journal[2:] if call[0] == "--resume"]
    assert len(resumed) == 2
    assert bench.journal[2:4] == resumed
    assert len(bench.journal) == 2 + 8 + 2


def test_ctrl_c_stops_the_runs_too(bench, train, monkeypatch):
    (bench.folder / "wait").touch()
    children, popen = [], subprocess.Popen

    def noted(*args, **kwargs):
        children.append(popen(*args, **kwargs))
        return children[-1]

    def pressed(seconds):
        if len(list(bench.folder.glob("runs/*/*/*/*/checkpoint.pt"))) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setattr(train.jobs.time, "sleep", pressed)
    assert bench.work() == 130
    assert [child.poll() is not None for child in children] == [True, True]


def test_what_fails_is_said_once_and_the_rest_goes_on(bench, train, capsys):
    options = {"core": "broken", "hidden_size": 5}
    stages = train.cells.search("cosine", "linear")
    bench.cells.append(train.cells.Cell("retrieval", "broken-5", "retrieval", options, 100, 1.0, stages=stages))
    assert bench.work(only=("retrieval",)) == 1
    printed = capsys.readouterr().out
    assert printed.count("failed: error: no such core") == 3, "each learning rate; what comes after them cannot be"
    assert len([setting for setting in bench.settings() if setting[4] != "100"]) == 2


def test_another_budget_is_another_result(bench, train):
    from dataclasses import replace

    assert bench.work(num_workers=1, only=("retrieval",)) == 0
    before = len(bench.journal)
    bench.cells[0] = replace(bench.cells[0], updates=150)
    assert bench.work(num_workers=1, only=("retrieval",)) == 0
    assert [setting[3] for setting in bench.settings(before)] == ["150", "150"]
    before = len(bench.journal)
    bench.cells[0] = replace(bench.cells[0], search_updates=60, seeds=(0, 1, 2))
    assert bench.work(num_workers=1, only=("retrieval",)) == 0
    assert [setting[3] for setting in bench.settings(before)] == ["60"] * 8 + ["150"]


def test_a_setting_is_tried_with_every_seed_and_judged_by_the_mean(bench, train):
    """With seed 100 the rate 0.003 is best, with seed 101 it diverges; 0.0025 is best on the whole."""
    from dataclasses import replace

    rates = tuple({"learning_rate": rate, "lr_schedule": "cosine"} for rate in (0.003, 0.0025, 0.001))
    trials = [
        {"setting": setting, "seed": seed, "validation_nll": nll}
        for setting, nlls in zip(rates, [(0.1, None), (0.2, 0.3), (0.15, 0.5)], strict=True)
        for seed, nll in zip((100, 101), nlls, strict=True)
    ]
    assert train.tables.winner(trials, rates) == rates[1]
    bench.cells[0] = replace(bench.cells[0], stages=(rates,), search_seeds=(100, 101))
    assert bench.tables().left(bench.cells[0])[0] == 6
    assert bench.work(num_workers=1, only=("retrieval",), search_only=True) == 0
    assert [(setting[0], setting[4]) for setting in bench.settings()] == [
        (str(rate["learning_rate"]), seed) for rate in rates for seed in ("100", "101")
    ]


def test_what_is_left_and_how_long_it_takes(bench):
    cell, more = bench.cells
    searched = 8 * 40 * 2.0 / 60_000
    reported, both = searched + 2 * 100 * 2.0 / 60_000, (2 * 50 + 200) * 3.0 / 60_000
    tables = bench.tables()
    assert tables.left(cell) == (8, 2, pytest.approx(reported))
    assert tables.left(more) == (2, 1, pytest.approx(both))
    assert tables.minutes_left() == pytest.approx(reported + both)
    assert bench.tables(only=("harder",)).left(cell) == (8, 0, pytest.approx(searched)), "only its search is needed"
    assert bench.tables(search_only=True).left(cell) == (8, 0, pytest.approx(searched))
    assert bench.work(only=("retrieval",)) == 0
    # The script says that it took 1/500 of a second an update.
    assert tables.ms(cell) == pytest.approx(2.0)
    assert tables.left(cell) == (0, 0, 0)
    assert bench.train.jobs.in_words(135.2) == "at most about 2 h 15 min"
    assert bench.train.jobs.in_words(12.4) == "at most about 12 min"


def test_with_the_real_script(train, tmp_path, monkeypatch):
    """One trial and one seed of a tiny net."""
    monkeypatch.setattr(train.jobs, "subprocess", SimpleNamespace(Popen=Finished, DEVNULL=None))
    options = {"core": "fast_weights", "hidden_size": 4, "pairs": 2, "train_strings": 300, "validation_strings": 50}
    options |= {"test_strings": 50, "batch_size": 8, "test_curve": True, "core_kwargs": ["norm_per_step=True"]}
    stages = (({"learning_rate": 0.01},),)
    cell = train.cells.Cell("retrieval", "tiny", "retrieval", options, 40, 1.0, {}, stages, 20, seeds=(3,))
    tables = train.tables.Tables([cell], tmp_path / "results", tmp_path / "runs", TRAIN)
    with open(tmp_path / "lock", "w") as lock:
        assert tables.work(train.jobs.Budget(), lock) == 0
    search = json.loads((tmp_path / "results" / "search" / "tiny.json").read_text())
    assert (search["best"], search["updates"]) == ({"learning_rate": 0.01}, 20)
    assert [trial["seed"] for trial in search["trials"]] == [100]
    result = json.loads((tmp_path / "results" / "retrieval" / "tiny-s3.json").read_text())
    assert (result["updates"], result["seed"], result["config"]["learning_rate"]) == (40, 3, 0.01)
    assert result["test_error"] is not None
    assert result["command"].startswith("python train/retrieval.py --core fast_weights"), "as one would type it"
    assert len(result["curve"]["test_nll"]) == len(result["curve"]["update"])
    assert tables.left(cell) == (0, 0, 0), "it has the cell's options"


def test_the_cells_are_commands_that_exist(train, monkeypatch):
    """Every option is one of the script's; the search is one for all; some have constants of their own to try."""
    from dataclasses import fields
    from importlib import import_module

    cells = train.cells.CELLS
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        known = {field.name for field in fields(import_module(f"fwagents.commands.{cell.script}").Args)}
        choices = [choice for stage in cell.stages for choice in stage]
        for options in (cell.options, cell.start, *choices):
            assert set(options) <= known, cell.name
        assert not set(cell.search_seeds) & set(cell.seeds)
    for table in ("retrieval", "glimpses"):
        of_it = [cell for cell in cells if cell.table == table and cell.settings_of is None]
        assert all(cell.stages[:3] == of_it[0].stages[:3] for cell in of_it)
        more = {cell.name.rpartition("-")[0] for cell in of_it if len(cell.stages) > 3}
        ours = {"fast_weights"} if table == "retrieval" else {"mnist-fast_weights", "mnist-multilevel"}
        assert more == ours | {"irnn" if table == "retrieval" else "mnist-irnn"}
    language = [cell for cell in cells if cell.table == "language"]
    assert all(cell.stages[:2] == language[0].stages[:2] for cell in language)
    assert {cell.options["core"] for cell in language if len(cell.stages) > 2} == {"fast_weights"}
    assert len({cell.options["parameters"] for cell in language}) == 1


def test_dry_run_lists_every_cell(train, capsys):
    train.tables.main(["--dry-run"])
    printed = capsys.readouterr().out
    assert "Left: at most about" in printed


LISTS = [path for path in ROOT.glob("experiments/*.py") if "BoardArgs)" in path.read_text()]
TARGETS = [
    target
    for target, recipe in re.findall(r"^([\w-]+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if any(f"experiments.{path.stem}" in recipe for path in LISTS)
]


@pytest.mark.parametrize("words", [*(["python", path.stem] for path in LISTS), *(["make", name] for name in TARGETS)])
def test_a_dry_run_writes_nothing(words, tmp_path):
    """In a copy of the repository, where every file stays as it was."""
    root = tmp_path / "copy"
    without = shutil.ignore_patterns(".*", "runs", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, root, ignore=without)
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    # An installation from here would point the environment that runs these tests at the copy.
    python.write_text(f'#!/bin/sh\n[ "$2" != pip ] || exit 1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for stamp in (".train", ".dev"):
        (root / ".venv" / stamp).touch()
    before = {path: path.is_file() and (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*")}
    program, name = words
    command = [python, "-m", f"experiments.{name}", "--dry-run"] if program == "python" else [*words, "ARGS=--dry-run"]
    quiet = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=root, env=quiet, capture_output=True, text=True, check=True)
    assert "Left: at most about" in done.stdout
    assert {p: p.is_file() and (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*")} == before


def test_what_has_run_is_reported_and_what_has_not_is_not(train, tmp_path, monkeypatch):
    from experiments import report

    class Done(train.jobs.Board):
        """A board on which nothing is missing, or nothing succeeds."""

        code, calls = 0, []
        script = options = resumable = collect = ready = None

        def minutes_left(self):
            return 0.0

        def work(self, budget, lock):
            return self.code

    Done.__abstractmethods__ = frozenset()
    monkeypatch.setattr(report, "main", Done.calls.append)
    board, nothing = Done(tmp_path / "runs"), lambda: None
    train.jobs.list_or_run(board, train.tables.Args(dry_run=True), nothing)
    assert not Done.calls
    assert not list(tmp_path.iterdir())
    train.jobs.list_or_run(board, train.tables.Args(), nothing)
    assert Done.calls == [[]]
    board.code = 130
    with pytest.raises(SystemExit) as left:
        train.jobs.list_or_run(board, train.tables.Args(), nothing)
    assert (left.value.code, len(Done.calls)) == (130, 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "retrieval", "nothing"], "--only has 'nothing', expected some of retrieval"),
        (["--cells", "lstm-3"], "--cells has 'lstm-3', expected some of lstm-"),
        (["--num-workers", "0"], "--num-workers is 0"),
    ],
)
def test_a_mistake_is_one_clear_line(args, message, train, capsys):
    with pytest.raises(SystemExit) as left:
        train.tables.main(args)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_the_lock_outlives_the_one_who_took_it(train, tmp_path):
    """A run that was left behind keeps others out until it ends."""
    import fcntl

    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    with open(tmp_path / "lock", "w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate(b"\n")
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
