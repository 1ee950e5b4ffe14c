"""experiments/board.py on agents: searches first, then seeds with the winners. Scripts replace training."""

import json
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest

import fwagents.envs  # noqa: F401  # registers the environments
from experiments import EXPERIMENTS
from fwagents.runs.agent import Args
from fwagents.runs.search import COMMON, CORES

from .scripts import Finished

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "train"

# Records its arguments, and adds a trial at each call until there are as many as wanted.
TUNE = """
import json, pathlib, sys

root = pathlib.Path(__file__).parent
with open(root / "journal", "a") as journal:
    journal.write(json.dumps(["tune", *sys.argv[1:]]) + "\\n")
def value(name):
    return sys.argv[sys.argv.index(name) + 1]
output = pathlib.Path(value("--output"))
output.parent.mkdir(parents=True, exist_ok=True)
setting = {"learning_rate": 0.002, "num_envs": 16, "decay": 0.9, "identity_scale": 0.5}
borrowed = []
if "--borrow" in sys.argv:
    words = sys.argv[sys.argv.index("--borrow") + 1:sys.argv.index("--finalists")]
    borrowed = [pathlib.Path(word).name for word in words]
    setting["num_envs"] = 32
last = "--finalists" in sys.argv
trials = [{}] * int(value("--trials")) + [{"borrowed_from": name} for name in borrowed]
output.write_text(json.dumps({
    "env": value("--env"), "core": value("--core"), "steps": int(value("--total-timesteps")), "seeds": [100, 101],
    "winner": {"value": 0.5, "setting": setting}, "trials": trials, "borrowed": borrowed,
    "over": True, "finalists_wanted": int(value("--finalists")) if last else 0,
    "final_steps": int(value("--final-steps")) if last else 0,
}))
"""

# Writes a run of two evaluations of three episodes; returns fall by ten times the step size's distance from 0.003.
AGENT = """
import json, pathlib, sys, time
import numpy as np

root = pathlib.Path(__file__).parent
words = sys.argv[1:]
with open(root / "journal", "a") as journal:
    journal.write(json.dumps(["agent", *words]) + "\\n")
def read(text):
    try:
        return json.loads(text)
    except ValueError:
        return text
if words[0] == "--resume":
    run = pathlib.Path(words[1])
else:
    args, name = {"hidden_size": 128}, None
    for word in words:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            args[name] = [] if name in ("core_kwargs", "env_kwargs") else True
        elif name in ("core_kwargs", "env_kwargs"):
            args[name].append(word)
        else:
            args[name] = read(word)
    run = pathlib.Path(args["log_dir"]) / "env" / str(time.time_ns())
    (run / "checkpoints").mkdir(parents=True)
    described = {"args": args, "policy_kwargs": {}, "command": "python train/agent.py"}
    described |= {"commit": "", "machine": "", "versions": {}}
    (run / "config.json").write_text(json.dumps(described))
    (run / "checkpoints" / "step_000000000010.zip").touch()
size = json.loads((run / "config.json").read_text())["args"].get("learning_rate", 0.003)
results = np.array([[1.0, -1.0, -1.0], [1.0, 1.0, 0.5]]) - 10 * abs(size - 0.003)
np.savez(run / "evaluations.npz", timesteps=[10, 20], results=results)
stopped = {"stopped": "loss is nan"} if "--eval-freq" in words else {}
(run / "result.json").write_text(json.dumps({"steps": 20, **stopped, "final_model": {"mean_return": 0.75}}))
"""


@pytest.fixture
def train(monkeypatch):
    """Import the modules by their names."""
    from experiments import __main__, agents, board, cell, suite

    monkeypatch.setattr(board, "POLL", 0.02)
    modules = {"agents": agents, "board": board, "cell": cell, "main": __main__, "suite": suite}
    return type("Train", (), modules)


class Bench:
    """A board of two cells, one of which needs a search."""

    def __init__(self, train, folder):
        (folder / "tune.py").write_text(TUNE)
        (folder / "agent.py").write_text(AGENT)
        self.train, self.folder = train, folder
        self.search = train.cell.Search(
            "Game-v0", "lstm", trials=4, steps=50, seconds=120, finalists=2, final_steps=100
        )
        common = {"env": "Game-v0", "core": "lstm", "algo": "memory_a2c"}
        more = {"decay": 0.8, "core_kwargs": ["a=1", "b=2"], "use_rms_prop": True}
        self.cells = [
            train.cell.Cell(
                "curves", "lstm", "searched", common, search=self.search, rate=0.5, seconds=30, seeds=(1, 2)
            ),
            train.cell.Cell("curves", "own", "own", {**common, **more}, search=self.search, seconds=60, seeds=(1,)),
            train.cell.Cell("other", "lstm", "default", common, seconds=90, seeds=(3,)),
        ]

    @property
    def board(self):
        return self.train.board.Board(self.cells, self.folder / "results", self.folder / "runs", self.folder)

    def work(self, **budget):
        return self.board.work(self.train.board.Budget(**budget))

    @property
    def journal(self):
        return [json.loads(line) for line in (self.folder / "journal").read_text().splitlines()]

    def result(self, name):
        return json.loads((self.folder / "results" / "curves" / f"{name}.json").read_text())


@pytest.fixture
def bench(train, tmp_path):
    return Bench(train, tmp_path)


def test_the_search_comes_first_then_every_seed_with_its_winner_once(bench):
    # Three finalists train for twice as long as one of the four trials.
    assert bench.board.minutes_left() == pytest.approx((120 * 10 / 4 + 2 * 30 + 60 + 90) / 60)
    assert bench.work(num_workers=1) == 0
    journal = bench.journal
    assert [call[0] for call in journal] == ["tune", "tune", *["agent"] * 4]
    assert journal[0][1:9] == ["--env", "Game-v0", "--core", "lstm", "--trials", "4", "--total-timesteps", "50"]
    assert journal[1] == [*journal[0], "--finalists", "2", "--final-steps", "100"]
    first = bench.result("searched-s1")["config"]
    found = {"learning_rate": 0.001, "num_envs": 16, "decay": 0.9, "core_kwargs": ["identity_scale=0.5"]}
    assert first.items() >= {"env": "Game-v0", "core": "lstm", "algo": "memory_a2c", "seed": 1, **found}.items()
    own = bench.result("own-s1")["config"]
    assert own.items() >= {"decay": 0.8, "core_kwargs": ["a=1", "b=2"], "learning_rate": 0.002}.items()
    assert "num_envs" not in bench.result("default-s3")["config"], "it trains with the defaults"
    assert bench.work() == 0
    assert len(bench.journal) == 6, "nothing is run twice"
    assert bench.board.minutes_left() == 0


def test_every_search_then_tries_what_the_others_found(bench):
    """Rivals include cores without a cell here. Seeds run only with the winner of the last part."""
    search = replace(bench.search, cores=("lstm", "gru", "irnn"))
    bench.cells = [replace(bench.cells[0], search=search, seeds=(1,))]
    assert bench.board.minutes_left() == pytest.approx((3 * 120 * 12 / 4 + 30) / 60)
    assert bench.work(num_workers=2) == 0
    journal = bench.journal
    assert ["--borrow" in call for call in journal] == [False] * 3 + [True] + [False]
    assert {call[4] for call in journal[:3]} == {"lstm", "gru", "irnn"}
    borrowed = journal[3][journal[3].index("--borrow") + 1 : journal[3].index("--finalists")]
    assert journal[3][4] == "lstm"
    assert [Path(word).name for word in borrowed] == ["Game-v0-gru.json", "Game-v0-irnn.json"]
    assert bench.result("searched-s1")["config"]["num_envs"] == 32
    assert bench.board.minutes_left() == 0
    assert bench.work() == 0
    assert len(bench.journal) == 5


def test_a_cell_trains_with_the_step_size_of_the_best_trial(bench):
    """Trials come first and once for all cells that share them; the search's own step size is not used."""
    game = {"env": "KeyValueRecall-v0", "env_kwargs": ["pairs=2"], "core": "lstm", "algo": "memory_a2c"}
    cells = [replace(bench.cells[0], name=f"cell-{n}", options=game, seeds=(1,)) for n in (1, 2)]
    trials = tuple(
        replace(cells[0], name=f"trial-{size}", options={**game, "learning_rate": size}, seeds=(100,))
        for size in (0.001, 0.004, 0.009)
    )
    bench.cells = [replace(cells[0], name="without"), *(replace(cell, trials=trials) for cell in cells)]
    assert bench.board.minutes_left() == pytest.approx((120 * 10 / 4 + 6 * 30) / 60)
    assert bench.work(num_workers=1) == 0
    agents = [call for call in bench.journal if call[0] == "agent"]
    assert [call[call.index("--seed") + 1] for call in agents] == ["100"] * 3 + ["1"] * 3
    assert [bench.result(f"cell-{n}-s1")["config"]["learning_rate"] for n in (1, 2)] == [0.004] * 2
    assert bench.result("cell-1-s1")["config"]["num_envs"] == 16, "the rest is the search's"
    assert bench.board.minutes_left() == 0
    assert bench.work() == 0
    assert len(bench.journal) == 8


def test_the_best_step_size_counts_shares_of_what_memory_is_worth(bench):
    """The best returns without and with memory are 1.95 and 4 in this TMaze, -0.8 and 1 in this KeyValueRecall."""
    games = {"TMaze-v0": ["length=5"], "KeyValueRecall-v0": ["pairs=1"]}
    trials = [
        bench.train.cell.Cell(
            "suite", "lstm", f"{env}-{size}", {"env": env, "env_kwargs": words, "learning_rate": size}, seeds=(100,)
        )
        for size in (0.001, 0.003)
        for env, words in games.items()
    ]

    def best(*curves):
        for trial, curve in zip(trials, curves, strict=False):
            path = bench.folder / "results" / "curves" / f"{trial.name}-s100.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"mean_return": curve, "config": {**trial.options, "seed": 100}}))
        return bench.train.agents.best_step_size(bench.folder / "results", trials)

    assert best([4.0], [1.0], [4.0]) is None, "one is missing"
    assert best([1.95], [1.0], [3.795], [-0.8]) == 0.001, "0 and 1 against 0.9 and 0; returns would have the other"
    assert best([2.975], [1.0], [4.0], [0.1]) == 0.001, "the smaller of two alike"
    assert best([2.975], [1.0], [4.0], [0.2]) == 0.003
    assert best([-20.0, 4.0], [1.0], [2.975], [0.0]) == 0.001, "below what needs no memory all is alike"


def test_a_result_is_the_curve_the_end_and_how_to_get_it_again(bench):
    assert bench.work(num_workers=2) == 0
    result = bench.result("searched-s2")
    assert result["steps"] == [10, 20]
    assert result["mean_return"] == pytest.approx([-1 / 3 - 0.02, 2.5 / 3 - 0.02], abs=1e-6), "at a step size of 0.001"
    assert result["episodes"] == 3
    assert result["final"] == {"mean_return": 0.75}
    assert {"env", "core", "algo", "seed", "config", "command", "commit"} <= set(result)


def test_a_run_that_could_not_go_on_is_kept_as_it_then_played(bench, capsys):
    options = {"env": "Game-v0", "core": "irnn", "algo": "memory_a2c", "eval_freq": 10, "total_timesteps": 45}
    bench.cells = [bench.train.cell.Cell("curves", "irnn", "early", options, seeds=(1,))]
    assert bench.work() == 0
    assert "early seed 1: mean return 0.750 after 20 steps; loss is nan" in capsys.readouterr().out
    result = bench.result("early-s1")
    assert (result["steps"], result["stopped"]) == ([10, 20, 30, 40], "loss is nan")
    assert result["mean_return"][2:] == [0.75, 0.75]
    assert bench.board.minutes_left() == 0


def test_what_is_stopped_goes_on(bench):
    assert bench.work(num_workers=1) == 0
    (bench.folder / "results" / "curves" / "searched-s2.json").unlink()
    for run in bench.folder.glob("runs/agent/searched-seed-2/*/*"):
        (run / "result.json").unlink()
    assert bench.work() == 0
    assert bench.journal[-1][:2] == ["agent", "--resume"]
    assert bench.result("searched-s2")["seed"] == 2


def test_another_winner_is_another_run(bench):
    assert bench.work(num_workers=1) == 0
    path = bench.folder / "results" / "tuning" / "Game-v0-lstm.json"
    kept = json.loads(path.read_text())
    kept["winner"]["setting"]["num_envs"] = 8
    path.write_text(json.dumps(kept))
    before = len(bench.journal)
    assert bench.work(num_workers=1) == 0
    assert len(bench.journal) - before == 3
    assert bench.result("searched-s1")["config"]["num_envs"] == 8


def test_what_is_not_installed_is_left_out(train, monkeypatch, capsys):
    cell = train.cell.Cell("elsewhere", "lstm", "theirs", {"env": "not_there:Game-v0"})
    ours = train.cell.Cell("elsewhere", "lstm", "ours", {"env": "gymnasium:Game-v0"})
    monkeypatch.setattr("experiments.elsewhere.CELLS", [cell, ours])
    train.main.main(["--dry-run", "--only", "elsewhere"])
    said = capsys.readouterr().out
    assert "Left out, since these are not installed: not_there" in said
    assert [line.split()[0] for line in said.splitlines()[1:-1]] == ["ours"]


def test_with_the_real_scripts(train, tmp_path, monkeypatch):
    """The real scripts run a search of one trial, then one seed of a tiny net."""
    monkeypatch.setattr(train.board, "subprocess", SimpleNamespace(Popen=Finished, DEVNULL=None))
    pytest.importorskip("optuna")
    search = train.cell.Search(
        "PartialCatch-v0", "lstm", trials=1, steps=1500, seeds=(100,), finalists=1, final_steps=2000
    )
    options = {"env": "PartialCatch-v0", "env_kwargs": ["size=6"], "core": "lstm", "hidden_size": 8, "n_steps": 6}
    options |= {"total_timesteps": 400, "eval_freq": 200, "eval_episodes": 4, "final_episodes": 5, "num_envs": 4}
    cell = train.cell.Cell("curves", "lstm", "tiny", options, search=search, seeds=(3,))
    board = train.board.Board([cell], tmp_path / "results", tmp_path / "runs", TRAIN)
    assert board.work(train.board.Budget()) == 0
    result = json.loads((tmp_path / "results" / "curves" / "tiny-s3.json").read_text())
    found = json.loads((tmp_path / "results" / "tuning" / "PartialCatch-v0-lstm.json").read_text())
    assert result["config"]["learning_rate"] == found["winner"]["setting"]["learning_rate"]
    assert (result["env"], result["core"], result["algo"], result["seed"]) == (
        "PartialCatch-v0",
        "lstm",
        "memory_ppo",
        3,
    )
    assert result["steps"] == [200, 400]
    assert (len(result["mean_return"]), result["episodes"]) == (2, 4)
    assert result["command"].startswith("python train/agent.py --learning-rate")
    assert board.minutes_left() == 0


def test_the_cells_are_commands_that_exist(train):
    known = {field.name for field in fields(Args)}
    found = [cell for name in EXPERIMENTS for cell in import_module(f"experiments.{name}").CELLS]
    agents = [cell for cell in found if cell.script == "agent"]
    for cell in agents:
        assert set(cell.options) <= known, cell.name
        assert cell.search is None or not set(cell.search.seeds) & set(cell.seeds)
        assert all(set(trial.options) <= known and not set(trial.seeds) & set(cell.seeds) for trial in cell.trials)
    searches = {cell.search for cell in agents if cell.search is not None}
    assert len({replace(search, core="") for search in searches}) == 1, "the same for every core"
    setting = dict.fromkeys([*COMMON, *CORES["fast_weights"]], 1)
    assert set(train.cell.as_options(setting)) <= known


def test_the_suite_s_cells_are_its_difficulties(train):
    """A rollout is an episode: except in the maze, its last step ends the game, whatever the actions are."""
    from fwagents.envs import SUITE

    assert set(train.suite.ROLLOUTS) == set(SUITE)
    for env, rollouts in train.suite.ROLLOUTS.items():
        assert set(train.suite.TRIED_AT[env]) <= set(rollouts) <= set(SUITE[env].values)
        for difficulty, steps in rollouts.items():
            if env == "TMaze-v0":
                assert steps == 2 * (difficulty + 1), "the shortest way, twice"
                continue
            game = gym.make(env, **{SUITE[env].parameter: difficulty})
            game.reset(seed=0)
            assert [game.step(0)[2] for _ in range(steps)] == [False] * (steps - 1) + [True]


def test_a_run_of_learning_is_a_row_of_its_file(train, tmp_path):
    """Every seed has one row, with the run's final results; existing rows stay."""
    from experiments.learning import CELLS

    kept = json.loads((ROOT / "results" / "learning.json").read_text())
    results, run = tmp_path / "results", tmp_path / "run"
    results.mkdir()
    run.mkdir()
    (results / "learning.json").write_text(json.dumps(kept))
    cell = next(cell for cell in CELLS if cell.label == "PartialCatch-v0, MemoryPPO, LSTM")
    assert cell.kept(results, 12) is None
    assert cell.keep(results, 12, run) is None, "it has not ended"
    (run / "config.json").write_text(json.dumps({"command": "python train/agent.py --core lstm"}))
    final = {"mean_return": 0.5, "interval": [0.4, 0.6], "success_rate": 0.75}
    (run / "result.json").write_text(json.dumps({"steps": 100, "final_model": final}))
    for _ in range(2):
        assert cell.keep(results, 12, run).startswith("mean return 0.500 in ")
    *others, row = json.loads((results / "learning.json").read_text())
    assert others == kept
    assert row.items() >= {**final, "setting": cell.label, "seed": 12, "steps": 100}.items()
    assert row["command"] == "python train/agent.py --core lstm"
    assert cell.kept(results, 12) == row
