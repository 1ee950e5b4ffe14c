"""The board of some cells: it makes their missing runs; it can be stopped or killed, and called again.

The board reads its whole state from files, so nothing is lost with the process. Several boards may work at once: each
run has a lock, which its process holds for as long as it lives.
"""

import fcntl
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from experiments.agents import best_step_size
from experiments.cell import Cell, Grid, Run, Search, Setting, applied, as_options, had, in_words
from fwagents.runs.folder import CONFIG, RESULT, read_json, write_result
from fwagents.runs.interrupts import INTERRUPTED
from fwagents.runs.locks import hold

ROOT = Path(__file__).parent.parent
LOG = "log.txt"
LOCK = "lock"
POLL = 0.2  # seconds
PATIENCE = 60.0  # seconds between two checks of other boards' runs
TRIAL = ("validation_error", "validation_nll", "updates", "stopped", "seconds", "command", "commit")


@dataclass(frozen=True, eq=False)
class Job:
    """The work of one process.

    Attributes:
        name: its unique name on the screen.
        script: ``train/<script>.py``.
        options: options of the script.
        urgency: jobs run in ascending order of it.
        keep: function of the run's folder that stores the result of a run that has ended, and returns a short summary.
    """

    name: str
    script: str
    options: Setting
    urgency: tuple[int, int]
    keep: Callable[[Path], str | None]


class Progress(NamedTuple):
    """The progress of a grid.

    Attributes:
        ready: settings and seeds that can be tried now.
        stage: the index of their stage.
        left: number of missing trials, including later stages.
        best: the best setting; None while the grid is not over.
    """

    ready: list[tuple[Setting, int]]
    stage: int
    left: int
    best: Setting | None


class Budget(NamedTuple):
    """The time to work on a board, and the processes.

    Attributes:
        num_workers: processes at a time.
        minutes: minutes after which the board stops; None to work until everything is done.
    """

    num_workers: int = 2
    minutes: float | None = None


class Board:
    """Find the missing runs of some cells, and make them.

    Args:
        cells: the wanted cells; their trials, and the grids that their grids start from, are included.
        results: folder of the results: grids in ``search``, searches in ``tuning``, runs at their cell's path.
        runs: folder of the runs.
        scripts: folder of the scripts that train.
        search_only: True leaves the reported runs for later.
    """

    def __init__(
        self, cells: Iterable[Cell], results: Path, runs: Path, scripts: Path, search_only: bool = False
    ) -> None:
        self.results, self.runs, self.scripts = results, runs, scripts
        self.wanted = list(cells)
        self.trials = list({trial.name: trial for cell in self.wanted for trial in cell.trials}.values())
        self.cells = [*self.trials, *([] if search_only else self.wanted)]
        self.grids: dict[Cell, Grid] = {}
        for cell in self.wanted:
            self._add_grid(cell)

    def _add_grid(self, cell: Cell) -> None:
        """Add the grid of a cell, if it has one, and the grids that it starts from."""
        if isinstance(cell.search, Grid):
            self.grids[cell] = cell.search
            if cell.search.of is not None:
                self._add_grid(cell.search.of)

    # Results of the searches.

    def grid_path(self, cell: Cell) -> Path:
        """Return the path of the file that holds a cell's grid."""
        return self.results / "search" / f"{cell.name}.json"

    def tried(self, cell: Cell) -> list[Run]:
        """Return the grid's trials that were run for this cell with this budget."""
        kept = read_json(self.grid_path(cell))
        same = kept is not None and (kept["options"], kept["updates"]) == (cell.fixed, self.grids[cell].updates)
        return kept["trials"] if kept is not None and same else []

    def progress(self, cell: Cell) -> Progress:
        """Return the progress of a cell's grid."""
        grid = self.grids[cell]
        best, sizes = dict(grid.start), [len(stage) * len(grid.seeds) for stage in grid.stages]
        if grid.of is not None:
            found = self.progress(grid.of).best
            if found is None:
                return Progress([], 0, sum(sizes), None)
            best = {**found, **best}
        trials = self.tried(cell)
        known = {(key(trial["setting"]), trial["seed"]) for trial in trials}
        for place, stage in enumerate(grid.stages):
            settings = [applied(choice, best) for choice in stage]
            missing = [(s, seed) for s in settings for seed in grid.seeds if (key(s), seed) not in known]
            if missing:
                return Progress(missing, place, len(missing) + sum(sizes[place + 1 :]), None)
            best = winner(trials, [best, *settings])
        return Progress([], len(grid.stages), 0, best)

    def searches(self) -> list[Search]:
        """Return the searches that are not over, and those of their rivals that lack trials."""
        wanted = dict.fromkeys(cell.search for cell in self.wanted if isinstance(cell.search, Search))
        needed = dict.fromkeys(each for search in wanted for each in (search, *search.rivals))
        return [
            each
            for each in needed
            if not each.searched(self.results) or (each in wanted and each.winner(self.results) is None)
        ]

    def options(self, cell: Cell) -> Setting | None:
        """Return the options that a cell trains with; None while its search or its trials are not over."""
        found: Setting = {}
        if cell in self.grids:
            best = self.progress(cell).best
            return None if best is None else {**cell.options, **best}
        if isinstance(cell.search, Search):
            winner = cell.search.winner(self.results)
            if winner is None:
                return None
            found = as_options(winner)
            found["learning_rate"] *= cell.rate
        if cell.trials:
            size = best_step_size(self.results, cell.trials)
            if size is None:
                return None
            found["learning_rate"] = size
        return {**found, **cell.options}

    # Missing runs.

    def missing(self, cell: Cell) -> list[Job] | None:
        """Return the jobs of a cell's missing runs; None while its search or its trials are not over."""
        options = self.options(cell)
        if options is None:
            return None
        seeds = [seed for seed in cell.seeds if cell.kept(self.results, seed, options) is None]
        return [self.run_of(cell, options, seed) for seed in seeds]

    def run_of(self, cell: Cell, options: Setting, seed: int) -> Job:
        """Return the job that runs one seed; trials come first."""
        urgency = (1 if cell in self.trials else 2, seed)
        keep = partial(cell.keep, self.results, seed)
        return Job(f"{cell.name} seed {seed}", cell.script, {**options, "seed": seed}, urgency, keep)

    def trial_of(self, cell: Cell, setting: Setting, seed: int, stage: int) -> Job:
        """Return the job of a trial in a cell's grid; it does not read the test set."""
        options = {**cell.options, **setting, "updates": self.grids[cell].updates, "seed": seed}
        options.pop("test_curve", None)
        parts = [value if isinstance(value, list) else [f"{name}={value}"] for name, value in setting.items()]
        tried = " ".join(sorted(word for words in parts for word in words))
        name = f"{cell.name} trial {tried} seed {seed}"
        keep = partial(self.keep_trial, cell, setting, seed)
        return Job(name, cell.script, {**options, "test": False}, (0, stage), keep)

    def keep_trial(self, cell: Cell, setting: Setting, seed: int, run: Path) -> str | None:
        """Store the result of a trial that has ended with the other trials, and return a short summary."""
        result = read_json(run / RESULT)
        if result is None:
            return None
        trial = {"setting": setting, "seed": seed, **{name: result[name] for name in TRIAL}}
        others = [t for t in self.tried(cell) if (key(t["setting"]), t["seed"]) != (key(setting), seed)]
        trials = [*others, trial]
        kept = {
            "cell": cell.name,
            "options": cell.fixed,
            "updates": self.grids[cell].updates,
            "best": winner(trials, [trial["setting"] for trial in trials]),
            "trials": trials,
        }
        write_result(self.grid_path(cell), kept)
        return in_words(result, "validation")

    def search_of(self, search: Search) -> Job | None:
        """Return the job of a search, first alone, then with its rivals' winners; None while rivals lack trials."""
        path = search.path(self.results)
        options: Setting = {
            **{"env": search.env, "core": search.core, "trials": search.trials, "total_timesteps": search.steps},
            **{"seeds": list(search.seeds), "output": from_root(path)},
        }
        part = ""
        if search.searched(self.results):
            if not all(rival.searched(self.results) for rival in search.rivals):
                return None
            lent = [from_root(rival.path(self.results)) for rival in search.rivals]
            options |= {"borrow": lent} if lent else {}
            options |= {"finalists": search.finalists, "final_steps": search.final_steps}
            part = ", last part"

        def keep(_: Path) -> str | None:
            over = search.winner(self.results) is not None if part else search.searched(self.results)
            return str(read_json(path)["winner"]["setting"]) if over else None

        return Job(f"{search.name} search{part}", "tune", options, (0, 0), keep)

    def ready(self) -> list[Job]:
        """Return the jobs that can run now: searches first, then trials, then one seed after the other."""
        jobs = [job for search in self.searches() if (job := self.search_of(search)) is not None]
        for cell in self.grids:
            found = self.progress(cell)
            jobs += [self.trial_of(cell, setting, seed, found.stage) for setting, seed in found.ready]
        jobs += [job for cell in self.cells for job in self.missing(cell) or []]
        return sorted(jobs, key=lambda job: job.urgency)

    # How long it takes.

    def left(self) -> Iterator[tuple[str, str, float]]:
        """Yield the missing work: a name, its kind in words, and the most minutes that it takes one process."""
        for search in self.searches():
            yield search.name, "search", search.seconds_left(self.results) / 60
        for cell in dict.fromkeys([*self.grids, *self.cells]):
            trials = self.progress(cell).left if cell in self.grids else 0
            # A trial takes a share of a reported run.
            share = self.grids[cell].updates / cell.options["updates"] if trials else 0.0
            jobs = self.missing(cell) if cell in self.cells else []
            seeds = len(cell.seeds if jobs is None else jobs)
            if trials or seeds:
                minutes = (trials * share + seeds) * self.seconds(cell) / 60
                yield cell.name, (f"{trials} trials, " if trials else "") + f"{seeds} seeds", minutes

    def seconds(self, cell: Cell) -> float:
        """Return the seconds of a run: the median of a supervised cell's own runs, else the cell's estimate."""
        if cell not in self.grids:
            return cell.seconds
        kept = [*self.tried(cell), *(read_json(cell.path(self.results, seed)) for seed in cell.seeds)]
        times = [run["seconds"] / run["updates"] for run in kept if run is not None and run["updates"]]
        return statistics.median(times) * cell.options["updates"] if times else cell.seconds

    def minutes_left(self) -> float:
        """Return the most minutes that all missing work takes one process."""
        return sum(minutes for _, _, minutes in self.left())

    # Running the jobs.

    def folder(self, job: Job) -> Path:
        """Return the folder of a job's runs."""
        return self.runs / job.script / job.name.replace(" ", "-")

    def newest_run(self, job: Job) -> Path | None:
        """Return the newest run with a job's options, if there is one."""
        found = [path.parent for path in self.folder(job).glob(f"*/*/{CONFIG}")]
        same = [path for path in found if had(job.options, (read_json(path / CONFIG) or {}).get("args", {}))]
        return max(same, key=lambda path: (path / CONFIG).stat().st_mtime, default=None)

    def command(self, job: Job) -> list[str]:
        """Return the command that runs or resumes the job."""
        script = [sys.executable, from_root(self.scripts / f"{job.script}.py")]
        if job.script == "tune":  # the same command resumes a search
            return [*script, *as_arguments(job.options)]
        run = self.newest_run(job)
        # If the run has already ended, the command fails at once, and its result is then collected.
        if run is not None and ((run / "checkpoint.pt").exists() or any((run / "checkpoints").glob("step_*.zip"))):
            return [*script, "--resume", from_root(run)]
        return [*script, *as_arguments(job.options), "--log-dir", from_root(self.folder(job))]

    def collect(self, job: Job) -> str | None:
        """Store the result of the job's run, if it has ended, and return a short summary."""
        with self._alone():
            run = self.folder(job) if job.script == "tune" else self.newest_run(job)
            return None if run is None else job.keep(run)

    def work(self, budget: Budget) -> int:
        """Make all missing runs, and wait for those of other boards; return the exit code."""
        deadline = math.inf if budget.minutes is None else time.monotonic() + 60 * budget.minutes
        running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        failed: set[str] = set()
        interrupted = False
        try:
            while time.monotonic() < deadline:
                waiting = [job for job in self.ready() if job.name not in {*running, *failed}]
                if not waiting and not running:
                    break
                for job in waiting:
                    if len(running) < budget.num_workers and (process := self._start(job)) is not None:
                        running[job.name] = (job, process)
                if not running:
                    print("Waiting for what another board runs.", flush=True)
                    time.sleep(PATIENCE)
                while running and not any(process.poll() is not None for _, process in running.values()):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(POLL)
                for job, process in list(running.values()):
                    if process.poll() is not None:
                        del running[job.name]
                        if not self._finished(job):
                            failed.add(job.name)
                        print(f"  {in_hours(self.minutes_left() / budget.num_workers)} left", flush=True)
        except KeyboardInterrupt:
            interrupted = True
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in running.values():
            process.wait()
        if running:
            print("Stopped; the same command goes on from the checkpoints.")
        return INTERRUPTED if interrupted else int(bool(failed))

    def _start(self, job: Job) -> "subprocess.Popen[bytes] | None":
        """Start a job; return None if another board's process runs it."""
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "w") as lock, open(folder / LOG, "ab") as log:
            if not hold(lock):
                return None
            # The process has its own session, so that it gets Ctrl-C once, from here. It inherits the lock, so that
            # no other board works on the same run while it lives.
            return subprocess.Popen(
                self.command(job),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )

    def _finished(self, job: Job) -> bool:
        """Store and print the result of a job; return False if it has none."""
        came = self.collect(job)
        if came is None:
            lines = (self.folder(job) / LOG).read_text().split("\n")
            why = next((line for line in reversed(lines) if line), "no word of why")
            print(f"{job.name} failed: {why}", flush=True)
            return False
        print(f"{job.name}: {came}", flush=True)
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the results while the block runs: several boards add trials and rows to one file."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with open(self.runs / LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def winner(trials: Sequence[Run], settings: Sequence[Setting]) -> Setting:
    """Return the setting with the lowest mean validation NLL, as errors hardly differ on a plateau; diverged ones last.

    Args:
        trials: the trials that were run.
        settings: settings to choose from; settings without a trial are left out.
    """
    found: dict[str, list[float]] = {}
    for trial in trials:
        nll = trial["validation_nll"]
        found.setdefault(key(trial["setting"]), []).append(math.inf if nll is None else nll)
    return min((s for s in settings if key(s) in found), key=lambda s: statistics.fmean(found[key(s)]))


def key(setting: Setting) -> str:
    """Return a text that is equal for equal settings."""
    return json.dumps(setting, sort_keys=True)


def from_root(path: Path) -> str:
    """Return a path relative to the root, where the commands run; results store it."""
    return os.path.relpath(path, ROOT)


def as_arguments(options: Setting) -> list[str]:
    """``{"fast_lr": 0.5, "test": False, "env_kwargs": ["size=8"]}``: ``--fast-lr 0.5 --no-test --env-kwargs size=8``"""
    words = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return words


def in_hours(minutes: float) -> str:
    """``135`` -> ``"at most about 2 h 15 min"``."""
    hours, rest = divmod(round(minutes), 60)
    return f"at most about {f'{hours} h ' if hours else ''}{rest} min"
