"""Run what the tables of docs/results.md still lack: first each cell's search, then its seeds with the winner.

    python -m experiments.tables                 everything that is missing, two runs at a time; then the report
    python -m experiments.tables --only retrievalone table
    python -m experiments.tables --dry-run       what is left, and how long it should take

It can be stopped or killed at any moment: runs go on from their checkpoints when it is called again. Reported runs are
kept in results/<script>/<cell>-s<seed>.json, searches in results/search/<cell>.json; which cells there are, and their
budgets, stands in experiments/cells.py. A result whose options are not those of its cell is run anew.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cells import CELLS, Cell, Setting, applied
from experiments.jobs import ROOT, Board, BoardArgs, had, list_or_run, wanted
from fwagents.runs.cli import parse
from fwagents.runs.folder import RESULT, read_json, write_result
from fwagents.runs.interrupts import as_script


@dataclass
class Args(BoardArgs):
    """Run what the tables still lack."""

    search_only: bool = False
    """Search, and leave the reported runs for later."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run: a trial of a cell's search, or one of its seeds.

    Attributes:
        cell: what is trained.
        setting: what the search tries, or chose.
        seed: of the run.
        trial: whether it belongs to the search.
    """

    cell: Cell
    setting: Setting
    seed: int
    trial: bool

    @property
    def updates(self) -> int:
        """Its budget."""
        return self.cell.search_updates if self.trial else self.cell.updates

    @property
    def options(self) -> Setting:
        """Options of the script; a trial leaves the test set alone."""
        options = {**self.cell.options, **self.setting, "updates": self.updates, "seed": self.seed}
        if not self.trial:
            return options
        options.pop("test_curve", None)
        return {**options, "test": False}

    @property
    def name(self) -> str:
        """What it is called on the screen, and unlike any other."""
        parts = [value if isinstance(value, list) else [f"{name}={value}"] for name, value in self.setting.items()]
        tried = " ".join(sorted(word for words in parts for word in words))
        return f"{self.cell.name} {f'trial {tried} ' if self.trial else ''}seed {self.seed}"


class Search(NamedTuple):
    """How far a cell's search is.

    Attributes:
        ready: trials that can run now.
        stage: their place among the stages.
        later: trials that come after them.
        best: the best setting; None while the search is not over.
    """

    ready: list[Job]
    stage: int
    later: int
    best: Setting | None


class Tables(Board[Job]):
    """What is there, what is missing, and how to run it.

    Args:
        cells: all cells.
        results: folder of the results, those of the searches in ``search``.
        runs: folder of the runs.
        scripts: folder of the scripts that train.
        wanted: cells to run, if not all.
        search_only: True leaves the reported runs for later.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        results: Path,
        runs: Path,
        scripts: Path,
        wanted: Sequence[Cell] | None = None,
        search_only: bool = False,
    ) -> None:
        super().__init__(runs)
        self.cells = {cell.name: cell for cell in cells}
        self.results, self.scripts = results, scripts
        self.wanted = list(self.cells.values()) if wanted is None else wanted
        self.search_only = search_only

    def search_path(self, cell: Cell) -> Path:
        """Where a cell's search is kept."""
        return self.results / "search" / f"{cell.name}.json"

    def result_path(self, cell: Cell, seed: int) -> Path:
        """Where a reported run is kept."""
        return self.results / cell.script / f"{cell.name}-s{seed}.json"

    def trials(self, cell: Cell) -> list[dict[str, Any]]:
        """The trials that were run for this cell, with this budget."""
        kept = read_json(self.search_path(cell))
        same = kept is not None and (kept["options"], kept["updates"]) == (cell.options, cell.search_updates)
        return kept["trials"] if kept is not None and same else []

    def search(self, cell: Cell) -> Search:
        """How far the search is: every stage tries its settings on top of the best so far."""
        best: Setting = dict(cell.start)
        if cell.settings_of is not None:
            found = self.search(self.cells[cell.settings_of]).best
            if found is None:
                return Search([], 0, sum(map(len, cell.stages)) * len(cell.search_seeds), None)
            best = {**found, **best}
        trials = self.trials(cell)
        for place, stage in enumerate(cell.stages):
            settings = [applied(choice, best) for choice in stage]
            missing = [
                Job(cell, setting, seed, trial=True)
                for setting in settings
                for seed in cell.search_seeds
                if (key(setting), seed) not in {(key(trial["setting"]), trial["seed"]) for trial in trials}
            ]
            if missing:
                later = sum(map(len, cell.stages[place + 1 :])) * len(cell.search_seeds)
                return Search(missing, place, later, None)
            best = winner(trials, [best, *settings])
        return Search([], len(cell.stages), 0, best)

    def seeds(self, cell: Cell, best: Setting) -> list[Job]:
        """The reported runs that are missing."""
        jobs = [Job(cell, best, seed, trial=False) for seed in cell.seeds]
        kept = [read_json(self.result_path(cell, seed)) for seed in cell.seeds]
        return [job for job, run in zip(jobs, kept, strict=True) if run is None or not had(job.options, run["config"])]

    def ready(self) -> list[Job]:
        """What can run now: early stages of searches first, then seed after seed."""
        jobs: list[tuple[tuple[int, int], Job]] = []
        for cell in self.with_sources():
            search = self.search(cell)
            jobs += [((0, search.stage), job) for job in search.ready]
            if search.best is not None and self.reported(cell):
                jobs += [((1, job.seed), job) for job in self.seeds(cell, search.best)]
        return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]

    def with_sources(self) -> list[Cell]:
        """The wanted cells, and those whose settings they start from."""
        sources = {cell.settings_of for cell in self.wanted}
        return [cell for cell in self.cells.values() if cell in self.wanted or cell.name in sources]

    def reported(self, cell: Cell) -> bool:
        """Whether the cell's seeds are to be run."""
        return cell in self.wanted and not self.search_only

    def left(self, cell: Cell) -> tuple[int, int, float]:
        """Trials and seeds that a cell still lacks, and the minutes of one process that they take at most."""
        search = self.search(cell)
        trials = len(search.ready) + search.later
        seeds = 0
        if self.reported(cell):
            seeds = len(cell.seeds if search.best is None else self.seeds(cell, search.best))
        updates = trials * cell.search_updates + seeds * cell.updates
        return trials, seeds, updates * self.ms(cell) / 60_000

    def ms(self, cell: Cell) -> float:
        """Milliseconds an update takes: the median of the cell's own runs, else what the cell says."""
        kept = [*self.trials(cell), *(read_json(self.result_path(cell, seed)) for seed in cell.seeds)]
        times = [1000 * run["seconds"] / run["updates"] for run in kept if run is not None and run["updates"]]
        return statistics.median(times) if times else cell.ms

    def minutes_left(self) -> float:
        """Minutes of one process that everything takes at most."""
        return sum(self.left(cell)[2] for cell in self.with_sources())

    def script(self, job: Job) -> Path:
        """That of its cell."""
        return self.scripts / f"{job.cell.script}.py"

    def options(self, job: Job) -> Setting:
        """See :class:`Job`."""
        return job.options

    def resumable(self, run: Path) -> bool:
        """Whether a run has a checkpoint to go on from."""
        return (run / "checkpoint.pt").exists()

    def collect(self, job: Job) -> str | None:
        """Keep the result of a job's run, if it has ended; returns what came out."""
        run = self.newest_run(job)
        result = None if run is None else read_json(run / RESULT)
        if result is None:
            return None
        if job.trial:
            self._keep_trial(job, result)
        else:
            write_result(self.result_path(job.cell, job.seed), result)
        what = "validation" if job.trial else "test"
        error = result[f"{what}_error"]
        came = result["stopped"] if error is None else f"{what} error {error:.2f} %"
        return f"{came} after {result['updates']:,} updates, {result['seconds']:.0f} s"

    def _keep_trial(self, job: Job, result: dict[str, Any]) -> None:
        trials = self.trials(job.cell)
        names = ("validation_error", "validation_nll", "updates", "stopped", "seconds", "command", "commit")
        trials.append({"setting": job.setting, "seed": job.seed, **{name: result[name] for name in names}})
        kept = {
            "cell": job.cell.name,
            "options": job.cell.options,
            "updates": job.cell.search_updates,
            "best": winner(trials, [trial["setting"] for trial in trials]),
            "trials": trials,
        }
        write_result(self.search_path(job.cell), kept)


def winner(trials: Sequence[dict[str, Any]], settings: Sequence[Setting]) -> Setting:
    """The setting of the lowest mean NLL on validation, as errors hardly differ on a plateau; what diverged is last.

    Args:
        trials: what was run.
        settings: to choose from; what was never tried is left out.
    """
    found: dict[str, list[float]] = {}
    for trial in trials:
        nll = trial["validation_nll"]
        found.setdefault(key(trial["setting"]), []).append(math.inf if nll is None else nll)
    return min((s for s in settings if key(s) in found), key=lambda s: statistics.fmean(found[key(s)]))


def key(setting: Setting) -> str:
    """Equal for equal settings."""
    return json.dumps(setting, sort_keys=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, then list or run."""
    args = parse(Args, argv)
    cells = wanted(args, CELLS, lambda cell: cell.table)
    tables = Tables(CELLS, ROOT / "results", ROOT / "runs" / "tables", ROOT / "train", cells, args.search_only)
    list_or_run(tables, args, lambda: show(tables))


def show(tables: Tables) -> None:
    """What is left, cell by cell."""
    for cell in tables.with_sources():
        trials, seeds, minutes = tables.left(cell)
        if trials or seeds:
            print(
                f"{cell.name:24} {trials:2} trials of {cell.search_updates:7,} updates, {seeds} seeds of "
                f"{cell.updates:7,}, {tables.ms(cell):6.1f} ms each: {minutes:5.0f} min"
            )


if __name__ == "__main__":
    as_script(main)
