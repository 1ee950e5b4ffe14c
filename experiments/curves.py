"""Run what the figures of agents still lack: first each core's search, or its trials, then its seeds with the winner.

    python -m experiments.curves                 everything that is missing, two runs at a time; then the report
    python -m experiments.curves --dry-run       what is left, and how long it should take

It can be stopped or killed at any moment: runs go on from their checkpoints when it is called again. Runs are kept in
results/curves/<cell>-s<seed>.json, searches in results/tuning/<env>-<core>.json; which cells there are, and their
budgets, stands in experiments/agent_cells.py. A result whose options are not those of its cell is run anew.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments import agent_cells, rotary
from experiments.agent_cells import AgentCell, Search, Setting
from experiments.agent_results import kept_runs, result_path, share
from experiments.jobs import ROOT, Board, BoardArgs, as_arguments, from_root, had, list_or_run, wanted
from fwagents.runs.cli import CORE_OPTIONS, parse
from fwagents.runs.folder import CONFIG, RESULT, read_json, write_result
from fwagents.runs.interrupts import as_script
from fwagents.runs.search import BORROWED, COMMON

CELLS: list[AgentCell] = [*agent_cells.CELLS, *rotary.CELLS]


@dataclass
class Args(BoardArgs):
    """Run what the figures of agents still lack."""


@dataclass(frozen=True, eq=False)
class Job:
    """A search, or one seed of a cell.

    Attributes:
        task: the one or the other.
        options: of its script.
    """

    task: Search | AgentCell
    options: Setting

    @property
    def name(self) -> str:
        """What it is called on the screen, and unlike any other."""
        if isinstance(self.task, Search):
            return f"{self.task.name} search{', last part' if 'finalists' in self.options else ''}"
        return f"{self.task.name} seed {self.options['seed']}"


class Curves(Board[Job]):
    """What is there, what is missing, and how to run it.

    Args:
        cells: the cells wanted; their trials come with them.
        results: folder of the results: runs in ``curves``, searches in ``tuning``.
        runs: folder of the runs.
        scripts: folder of the scripts that train.
    """

    def __init__(self, cells: Iterable[AgentCell], results: Path, runs: Path, scripts: Path) -> None:
        super().__init__(runs)
        self.results, self.scripts = results, scripts
        trained = list(cells)
        self.trials = list({trial.name: trial for cell in trained for trial in cell.trials}.values())
        self.cells = [*self.trials, *trained]

    def search_path(self, search: Search) -> Path:
        """Where a search is kept."""
        return self.results / "tuning" / f"{search.name}.json"

    def tried(self, search: Search, borrowed: bool) -> list[Any]:
        """The trials of a search that are there: its own, or the winners of other cores' that it has tried."""
        kept = read_json(self.search_path(search))
        if kept is None or (kept["steps"], tuple(kept["seeds"])) != (search.steps, search.seeds):
            return []
        return [trial for trial in kept["trials"] if (BORROWED in trial) == borrowed]

    def searched(self, search: Search) -> bool:
        """Whether its own trials are over."""
        return len(self.tried(search, borrowed=False)) >= search.trials

    def winner(self, search: Search) -> Setting | None:
        """What the search found; None while it is not over."""
        kept = read_json(self.search_path(search)) or {}
        borrowed = {self.search_path(rival).name for rival in search.rivals}
        wanted = (True, search.finalists, search.final_steps)
        had = tuple(kept.get(name) for name in ("over", "finalists_wanted", "final_steps"))
        if not self.searched(search) or had != wanted or not borrowed <= set(kept["borrowed"]):
            return None
        setting: Setting = kept["winner"]["setting"]
        return setting

    def missing(self, cell: AgentCell) -> list[Job] | None:
        """The runs that are missing; None while their search or their trials are not over."""
        found: Setting = {}
        if cell.search is not None:
            winner = self.winner(cell.search)
            if winner is None:
                return None
            found = as_options(winner)
            found["learning_rate"] *= cell.rate
        if cell.trials:
            best = best_step_size(self.results, cell.trials)
            if best is None:
                return None
            found["learning_rate"] = best
        jobs = [Job(cell, {**found, **cell.options, "seed": seed}) for seed in cell.seeds]
        kept = [read_json(result_path(self.results, cell, seed)) for seed in cell.seeds]
        return [job for job, run in zip(jobs, kept, strict=True) if run is None or not had(job.options, run["config"])]

    def searches(self) -> list[Search]:
        """Those that are not over, and of their rivals those that lack trials."""
        wanted = dict.fromkeys(cell.search for cell in self.cells if cell.search is not None)
        needed = dict.fromkeys(each for search in wanted for each in (search, *search.rivals))
        return [s for s in needed if not self.searched(s) or (s in wanted and self.winner(s) is None)]

    def ready(self) -> list[Job]:
        """Searches first, each by itself and then with what the others found; then trials; then seed after seed."""
        jobs = []
        for search in self.searches():
            if not self.searched(search):
                jobs.append(Job(search, search_options(search, self.search_path(search))))
            elif all(self.searched(rival) for rival in search.rivals):
                lent = [self.search_path(rival) for rival in search.rivals]
                jobs.append(
                    Job(search, {**search_options(search, self.search_path(search)), **last_part(search, lent)})
                )
        runs = [job for cell in self.cells for job in self.missing(cell) or []]
        return jobs + sorted(runs, key=lambda job: (job.task not in self.trials, job.options["seed"]))

    def minutes_left(self) -> float:
        """Minutes of one process that everything takes."""
        counts = [(cell, self.missing(cell)) for cell in self.cells]
        runs = sum(cell.seconds * len(cell.seeds if jobs is None else jobs) for cell, jobs in counts)
        return (runs + sum(map(self.seconds_left, self.searches()))) / 60

    def seconds_left(self, search: Search) -> float:
        """Of a search that is not over: its trials, those of its rivals' winners, and the finalists' long runs."""
        own, lent = (len(self.tried(search, borrowed)) for borrowed in (False, True))
        finals = (search.finalists + 1) * search.final_steps / search.steps
        trials = max(0, search.trials - own) + max(0, len(search.rivals) - lent) + finals
        return search.seconds / search.trials * trials

    def script(self, job: Job) -> Path:
        """train/tune.py or train/agent.py."""
        return self.scripts / ("tune.py" if isinstance(job.task, Search) else "agent.py")

    def options(self, job: Job) -> Setting:
        """See :class:`Job`."""
        return job.options

    def resumable(self, run: Path) -> bool:
        """Whether a run has a checkpoint to go on from."""
        return any((run / "checkpoints").glob("step_*.zip"))

    def command(self, job: Job) -> list[str]:
        """A search goes on when it is called again."""
        if isinstance(job.task, Search):
            return [sys.executable, from_root(self.script(job)), *as_arguments(job.options)]
        return super().command(job)

    def collect(self, job: Job) -> str | None:
        """Keep the result of a run, if it has ended; returns what came out."""
        if isinstance(job.task, Search):
            over = self.searched(job.task) and ("finalists" not in job.options or self.winner(job.task) is not None)
            return f"{read_json(self.search_path(job.task))['winner']['setting']}" if over else None
        run = self.newest_run(job)
        result = None if run is None else read_json(run / RESULT)
        if run is None or result is None or "final_model" not in result:
            return None
        write_result(
            result_path(self.results, job.task, job.options["seed"]), kept(read_json(run / CONFIG), run, result)
        )
        why = f"; {result['stopped']}" if "stopped" in result else ""
        return f"mean return {result['final_model']['mean_return']:.3f} after {result['steps']:,} steps{why}"


def best_step_size(results: Path, trials: Sequence[AgentCell]) -> float | None:
    """The step size whose trials have the highest curves, the smaller of two alike; None while any trial is missing.

    A curve counts by its share of what memory is worth, so that all difficulties weigh alike, and at least with 0: how
    badly an agent plays that has not learned says nothing.
    """
    shares: dict[float, list[float]] = {}
    for trial in trials:
        runs = kept_runs(results, trial)
        if len(runs) < len(trial.seeds):
            return None
        values = [max(0.0, share(run, value)) for run in runs for value in run["mean_return"]]
        shares.setdefault(trial.options["learning_rate"], []).append(fmean(values))
    return max(sorted(shares), key=lambda size: fmean(shares[size]))


def kept(config: dict[str, Any], run: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result file of a run: its curve, how it plays at the end, and what it takes to run it again.

    One that stopped early, as training could not go on, says why; its curve goes on with how it played then.
    """
    args, final = config["args"], result["final_model"]
    steps, means, episodes = [], [], 0
    if (run / "evaluations.npz").exists():
        with np.load(run / "evaluations.npz") as evaluations:
            steps, episodes = evaluations["timesteps"].tolist(), evaluations["results"].shape[1]
            means = evaluations["results"].mean(1).tolist()
    if "stopped" in result and args["eval_freq"]:
        rest = range((len(steps) + 1) * args["eval_freq"], args["total_timesteps"] + 1, args["eval_freq"])
        steps, means = [*steps, *rest], means + len(rest) * [final["mean_return"]]
    return {
        **{name: args[name] for name in ("env", "core", "algo", "seed")},
        "steps": steps,
        "mean_return": [round(mean, 6) for mean in means],
        "episodes": episodes,
        "final": final,
        **({"stopped": result["stopped"]} if "stopped" in result else {}),
        "config": args,
        "policy_kwargs": config["policy_kwargs"],
        **{name: config[name] for name in ("command", "commit", "machine", "versions")},
    }


def as_options(winner: Setting) -> Setting:
    """A search's winner as options of train/agent.py."""
    options = {name: value for name, value in winner.items() if name in COMMON or name in CORE_OPTIONS}
    core_kwargs = [f"{name}={value}" for name, value in winner.items() if name not in options]
    return {**options, "core_kwargs": core_kwargs} if core_kwargs else options


def search_options(search: Search, output: Path) -> Setting:
    """Those of train/tune.py."""
    return {
        **{"env": search.env, "core": search.core, "trials": search.trials, "total_timesteps": search.steps},
        **{"seeds": list(search.seeds), "output": from_root(output)},
    }


def last_part(search: Search, lent: Sequence[Path]) -> Setting:
    """Those of its last part, with what the others found and the long runs."""
    return {
        **({"borrow": [from_root(path) for path in lent]} if lent else {}),
        **{"finalists": search.finalists, "final_steps": search.final_steps},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, then list or run."""
    args = parse(Args, argv)
    cells = wanted(args, CELLS, lambda cell: cell.group)
    absent = {module for cell in cells if (module := module_of(cell)) and find_spec(module) is None}
    if absent:
        print(f"Left out, since these are not installed: {', '.join(sorted(absent))}")
        cells = [cell for cell in cells if module_of(cell) not in absent]
    curves = Curves(cells, ROOT / "results", ROOT / "runs" / "curves", ROOT / "train")
    list_or_run(curves, args, lambda: show(curves))


def module_of(cell: AgentCell) -> str:
    """The module that brings a cell's environment; empty for our own and Gymnasium's."""
    module: str = cell.options["env"].rpartition(":")[0]
    return module


def show(curves: Curves) -> None:
    """What is left."""
    for search in curves.searches():
        print(f"{search.name:45} search:  {curves.seconds_left(search) / 60:5.0f} min")
    for cell in curves.cells:
        jobs = curves.missing(cell)
        seeds = len(cell.seeds if jobs is None else jobs)
        if seeds:
            print(f"{cell.name:45} {seeds} seeds: {seeds * cell.seconds / 60:5.0f} min")


if __name__ == "__main__":
    as_script(main)
