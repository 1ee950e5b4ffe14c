"""experiments/board.py on supervised cells: missing runs are made once, in order. A script replaces training."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from .scripts import Finished

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "train"

# Replaces train/retrieval.py: it records its arguments and at once writes an NLL that depends on the options.
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
    while (root / "wait").exists():
        time.sleep(0.05)
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
    """Import the modules by their names."""
    from experiments import __main__, board, cell, supervised

    monkeypatch.setattr(board, "POLL", 0.02)
    monkeypatch.setattr(board, "PATIENCE", 0.1)
    return type("Train", (), {"cell": cell, "board": board, "supervised": supervised, "main": __main__.main})


class Bench:
    """A board of a few cells, run by the script above."""

    def __init__(self, train, folder, cells):
        (folder / "retrieval.py").write_text(SCRIPT)
        self.train, self.folder, self.cells = train, folder, cells

    def board(self, only=("retrieval", "harder"), search_only=False):
        wanted = [cell for cell in self.cells if cell.group in only]
        folders = self.folder / "results", self.folder / "runs", self.folder
        return self.train.board.Board(wanted, *folders, search_only)

    def work(self, only=("retrieval", "harder"), search_only=False, **budget):
        return self.board(only, search_only).work(self.train.board.Budget(**budget))

    def left(self, **choice):
        """Return the missing runs by cell: in words, and the minutes that they take."""
        return {name: (what, pytest.approx(minutes)) for name, what, minutes in self.board(**choice).left()}

    @property
    def journal(self):
        path = self.folder / "journal"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def settings(self, begin=0):
        """Return the options of every call since ``begin``: (learning rate, schedule, decay, updates, seed)."""
        names = ("--learning-rate", "--lr-schedule", "--decay", "--updates", "--seed")
        return [
            tuple(call[call.index(name) + 1] if name in call else None for name in names)
            for call in self.journal[begin:]
        ]


@pytest.fixture
def bench(train, tmp_path):
    Cell, Grid, Times = train.cell.Cell, train.cell.Grid, train.cell.Times
    stages = (
        tuple({"learning_rate": rate, "lr_schedule": "cosine"} for rate in (0.005, 0.00125, 0.5)),
        ({"learning_rate": Times(0.5)}, {"learning_rate": Times(2.0)}),
        ({"lr_schedule": "constant"},),
        ({"decay": 0.8}, {"decay": 0.95}),
    )
    options = {"core": "fast_weights", "hidden_size": 5, "updates": 100}
    grid = Grid(stages, 40, {"decay": 0.9})
    cell = Cell("retrieval", "fast_weights", "fast_weights-5", options, "retrieval", (0, 1), 0.2, grid)
    options = {"core": "fast_weights", "hidden_size": 5, "pairs": 8, "updates": 200}
    grid = Grid((({"decay": 0.7}, {"decay": 0.99}),), 50, {}, of=cell)
    more = Cell("harder", "fast_weights", "fast_weights-5-k8", options, "retrieval", (0,), 0.6, grid)
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
    """0.5 diverges and is the worst; twice 0.00125 and decay 0.8 have the lowest NLL; the harder cell begins there."""
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
    monkeypatch.setattr(train.board.time, "sleep", pressed)
    assert bench.work() == 130
    assert [child.poll() is not None for child in children] == [True, True]


def test_what_fails_is_said_once_and_the_rest_goes_on(bench, train, capsys):
    options = {"core": "broken", "hidden_size": 5, "updates": 100}
    grid = train.cell.Grid(train.supervised.rates("cosine", "linear"), 40, {})
    bench.cells.append(train.cell.Cell("retrieval", "broken", "broken-5", options, "retrieval", (0,), search=grid))
    assert bench.work(only=("retrieval",)) == 1
    printed = capsys.readouterr().out
    assert printed.count("failed: error: no such core") == 3, "each learning rate; what comes after them cannot be"
    assert len([setting for setting in bench.settings() if setting[4] != "100"]) == 2


def test_another_budget_is_another_result(bench):
    assert bench.work(num_workers=1, only=("retrieval",)) == 0
    before = len(bench.journal)
    bench.cells[0] = replace(bench.cells[0], options={**bench.cells[0].options, "updates": 150})
    assert bench.work(num_workers=1, only=("retrieval",)) == 0
    assert [setting[3] for setting in bench.settings(before)] == ["150", "150"]
    before = len(bench.journal)
    bench.cells[0] = replace(bench.cells[0], search=replace(bench.cells[0].search, updates=60), seeds=(0, 1, 2))
    assert bench.work(num_workers=1, only=("retrieval",)) == 0
    assert [setting[3] for setting in bench.settings(before)] == ["60"] * 8 + ["150"]


def test_a_setting_is_tried_with_every_seed_and_judged_by_the_mean(bench, train):
    """With seed 100 the rate 0.003 is best, with seed 101 it diverges; 0.0025 is best on the whole."""
    rates = tuple({"learning_rate": rate, "lr_schedule": "cosine"} for rate in (0.003, 0.0025, 0.001))
    trials = [
        {"setting": setting, "seed": seed, "validation_nll": nll}
        for setting, nlls in zip(rates, [(0.1, None), (0.2, 0.3), (0.15, 0.5)], strict=True)
        for seed, nll in zip((100, 101), nlls, strict=True)
    ]
    assert train.board.winner(trials, rates) == rates[1]
    grid = replace(bench.cells[0].search, stages=(rates,), seeds=(100, 101))
    bench.cells[0] = replace(bench.cells[0], search=grid)
    assert bench.left(only=("retrieval",))["fast_weights-5"][0] == "6 trials, 2 seeds"
    assert bench.work(num_workers=1, only=("retrieval",), search_only=True) == 0
    assert [(setting[0], setting[4]) for setting in bench.settings()] == [
        (str(rate["learning_rate"]), seed) for rate in rates for seed in ("100", "101")
    ]


def test_what_is_left_and_how_long_it_takes(bench):
    first, second = (cell.name for cell in bench.cells)
    searched = 8 * 40 * 2.0 / 60_000
    reported, both = searched + 2 * 100 * 2.0 / 60_000, (2 * 50 + 200) * 3.0 / 60_000
    assert bench.left() == {first: ("8 trials, 2 seeds", reported), second: ("2 trials, 1 seeds", both)}
    assert bench.board().minutes_left() == pytest.approx(reported + both)
    assert bench.left(only=("harder",))[first] == ("8 trials, 0 seeds", searched), "only its search is needed"
    assert bench.left(search_only=True)[first] == ("8 trials, 0 seeds", searched)
    # The script reports 1/500 of a second per update.
    bench.cells[0] = replace(bench.cells[0], seconds=100.0)
    assert bench.work(only=("retrieval",)) == 0
    assert bench.board().seconds(bench.cells[0]) == pytest.approx(100 * 2.0 / 1000)
    assert not bench.left(only=("retrieval",))
    assert bench.train.board.in_hours(135.2) == "at most about 2 h 15 min"
    assert bench.train.board.in_hours(12.4) == "at most about 12 min"


def test_two_boards_share_the_work(bench):
    """A board does not start the other board's runs: it waits for them and uses their results."""
    (bench.folder / "wait").touch()
    boards = [Thread(target=bench.work, kwargs={"num_workers": n, "only": ("retrieval",)}) for n in (1, 3)]
    for count, board in zip((1, 3), boards, strict=True):
        board.start()
        while len(bench.journal) < count:
            assert board.is_alive()
            time.sleep(0.02)
    (bench.folder / "wait").unlink()
    for board in boards:
        board.join()
    assert sorted(row for row in bench.settings() if row[0]) == sorted([*TRIALS, *REPORTED]), "nothing is trained twice"
    trials = json.loads((bench.folder / "results" / "search" / "fast_weights-5.json").read_text())["trials"]
    assert len(trials) == len(TRIALS)


def test_with_the_real_script(train, tmp_path, monkeypatch):
    """The real script runs one trial and one seed of a tiny net."""
    monkeypatch.setattr(train.board, "subprocess", SimpleNamespace(Popen=Finished, DEVNULL=None))
    options = {"core": "fast_weights", "hidden_size": 4, "pairs": 2, "train_strings": 300, "validation_strings": 50}
    options |= {"test_strings": 50, "batch_size": 8, "test_curve": True, "core_kwargs": ["norm_per_step=True"]}
    grid = train.cell.Grid((({"learning_rate": 0.01},),), 20, {})
    cell = train.cell.Cell("retrieval", "tiny", "tiny", {**options, "updates": 40}, "retrieval", (3,), search=grid)
    board = train.board.Board([cell], tmp_path / "results", tmp_path / "runs", TRAIN)
    assert board.work(train.board.Budget()) == 0
    search = json.loads((tmp_path / "results" / "search" / "tiny.json").read_text())
    assert (search["best"], search["updates"]) == ({"learning_rate": 0.01}, 20)
    assert [trial["seed"] for trial in search["trials"]] == [100]
    result = json.loads((tmp_path / "results" / "retrieval" / "tiny-s3.json").read_text())
    assert (result["updates"], result["seed"], result["config"]["learning_rate"]) == (40, 3, 0.01)
    assert result["test_error"] is not None
    assert result["command"].startswith("python train/retrieval.py --core fast_weights"), "as one would type it"
    assert len(result["curve"]["test_nll"]) == len(result["curve"]["update"])
    assert not list(board.left()), "it has the cell's options"


def test_the_lock_outlives_the_one_who_took_it(train, tmp_path):
    """A run that outlives its board keeps the lock until it ends."""
    import fcntl

    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    with open(tmp_path / "lock", "w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate(b"\n")
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
