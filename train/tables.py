"""Run what the tables of docs/results.md still lack: first each cell's search, then its seeds with the winner.

    python train/tables.py                           everything that is missing, two runs at a time
    python train/tables.py --only retrieval          one table
    python train/tables.py --dry-run                 what is left, and how long it should take

It can be stopped or killed at any moment: runs go on from their checkpoints when it is called again. Reported runs are
kept in results/<script>/<cell>-s<seed>.json, searches in results/search/<cell>.json; which cells there are, and their
budgets, stands in train/cells.py. A result whose options are not those of its cell is run anew.
"""

import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from cells import CELLS, SEARCH_SEED, TABLES, Cell, Setting, applied
from cli import INTERRUPTED, fail, parse
from runs import CONFIG, RESULT, read_json, write_result

ROOT = Path(__file__).parent.parent
LOG = "log.txt"
POLL = 0.2  # seconds


@dataclass
class Args:
    """Run what the tables still lack."""

    only: tuple[str, ...] = TABLES
    """Tables to fill."""
    cells: tuple[str, ...] = ()
    """Cells to run, by name; none is all."""
    search_only: bool = False
    """Search, and leave the reported runs for later."""
    dry_run: bool = False
    """Run nothing; list what is left."""
    minutes: float | None = None
    """Stop after so long; what is under way then goes on at the next call."""
    side_by_side: int = 2
    """Runs at a time."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run: a trial of a cell's search, or one of its seeds.

    Attributes:
        cell: what is trained.
        setting: what the search tries, or chose.
        seed: None for a trial.
    """

    cell: Cell
    setting: Setting
    seed: int | None

    @property
    def updates(self) -> int:
        """Its budget."""
        return self.cell.search_updates if self.seed is None else self.cell.updates

    @property
    def options(self) -> Setting:
        """Options of the script; a trial leaves the test set alone."""
        options = {**self.cell.options, **self.setting, "updates": self.updates}
        if self.seed is not None:
            return {**options, "seed": self.seed}
        options.pop("test_curve", None)
        return {**options, "seed": SEARCH_SEED, "test": False}

    @property
    def name(self) -> str:
        """What it is called on the screen, and unlike any other."""
        tried = " ".join(f"{name}={value}" for name, value in sorted(self.setting.items()))
        return f"{self.cell.name} {f'trial {tried}' if self.seed is None else f'seed {self.seed}'}"


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


class Tables:
    """What is there, what is missing, and how to run it.

    Args:
        cells: all cells.
        results: folder of the results, those of the searches in ``search``.
        runs: folder of the runs.
        scripts: folder of the scripts that train.
    """

    def __init__(self, cells: Iterable[Cell], results: Path, runs: Path, scripts: Path) -> None:
        self.cells = {cell.name: cell for cell in cells}
        self.results, self.runs, self.scripts = results, runs, scripts

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
                return Search([], 0, sum(map(len, cell.stages)), None)
            best = {**found, **best}
        tried = {key(trial["setting"]): rank(trial) for trial in self.trials(cell)}
        for place, stage in enumerate(cell.stages):
            settings = [applied(choice, best) for choice in stage]
            missing = [setting for setting in settings if key(setting) not in tried]
            if missing:
                later = sum(map(len, cell.stages[place + 1 :]))
                return Search([Job(cell, setting, None) for setting in missing], place, later, None)
            best = min((s for s in [best, *settings] if key(s) in tried), key=lambda s: tried[key(s)])
        return Search([], len(cell.stages), 0, best)

    def seeds(self, cell: Cell, best: Setting) -> list[Job]:
        """The reported runs that are missing."""
        jobs = [Job(cell, best, seed) for seed in cell.seeds]
        return [job for job in jobs if not matches(job, read_json(self.result_path(cell, job.seed or 0)))]

    def ready(self, wanted: Sequence[Cell], search_only: bool = False) -> list[Job]:
        """What can run now: early stages of searches first, then seed after seed."""
        jobs: list[tuple[tuple[int, int], Job]] = []
        for cell in self.with_sources(wanted):
            search = self.search(cell)
            jobs += [((0, search.stage), job) for job in search.ready]
            if search.best is not None and cell in wanted and not search_only:
                jobs += [((1, job.seed or 0), job) for job in self.seeds(cell, search.best)]
        return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]

    def with_sources(self, wanted: Sequence[Cell]) -> list[Cell]:
        """The cells, and those whose settings they start from."""
        sources = {cell.settings_of for cell in wanted}
        return [cell for cell in self.cells.values() if cell in wanted or cell.name in sources]

    def left(self, cell: Cell, reported: bool) -> tuple[int, int, float]:
        """Trials and seeds that a cell still lacks, and the minutes of one process that they take at most."""
        search = self.search(cell)
        trials = len(search.ready) + search.later
        seeds = 0 if not reported else len(cell.seeds if search.best is None else self.seeds(cell, search.best))
        updates = trials * cell.search_updates + seeds * cell.updates
        return trials, seeds, updates * self.ms(cell) / 60_000

    def ms(self, cell: Cell) -> float:
        """Milliseconds an update takes: the median of the cell's own runs, else what the cell says."""
        kept = [*self.trials(cell), *(read_json(self.result_path(cell, seed)) for seed in cell.seeds)]
        times = [1000 * run["seconds"] / run["updates"] for run in kept if run is not None and run["updates"]]
        return statistics.median(times) if times else cell.ms

    def minutes_left(self, wanted: Sequence[Cell], search_only: bool) -> float:
        """Minutes of one process that everything takes at most."""
        return sum(self.left(c, c in wanted and not search_only)[2] for c in self.with_sources(wanted))

    def folder(self, job: Job) -> Path:
        """Where a job's runs go."""
        return self.runs / job.cell.script / job.name.replace(" ", "-")

    def newest_run(self, job: Job) -> Path | None:
        """The newest run of a job's options, if there is one."""
        found = [path.parent for path in self.folder(job).glob(f"*/*/{CONFIG}")]
        same = [path for path in found if matches(job, {"config": (read_json(path / CONFIG) or {}).get("args", {})})]
        return max(same, key=lambda path: (path / CONFIG).stat().st_mtime, default=None)

    def command(self, job: Job) -> list[str]:
        """What runs the job, or goes on with it."""
        script = [sys.executable, from_root(self.scripts / f"{job.cell.script}.py")]
        run = self.newest_run(job)
        if run is not None and (run / "checkpoint.pt").exists():
            # One that ended when nobody looked will say so, and its result is then collected.
            return [*script, "--resume", from_root(run)]
        return [*script, *as_arguments(job.options), "--log-dir", from_root(self.folder(job))]

    def collect(self, job: Job) -> dict[str, Any] | None:
        """Keep the result of a job's run, if it has ended; returns it."""
        run = self.newest_run(job)
        result = None if run is None else read_json(run / RESULT)
        if result is None:
            return None
        if job.seed is not None:
            write_result(self.result_path(job.cell, job.seed), result)
            return result
        trials = self.trials(job.cell)
        names = ("validation_error", "validation_nll", "updates", "stopped", "seconds", "command", "commit")
        trials.append({"setting": job.setting, **{name: result[name] for name in names}})
        kept = {
            "cell": job.cell.name,
            "options": job.cell.options,
            "updates": job.cell.search_updates,
            "seed": SEARCH_SEED,
            "best": min(trials, key=rank)["setting"],
            "trials": trials,
        }
        write_result(self.search_path(job.cell), kept)
        return result

    def work(self, args: Args, wanted: Sequence[Cell], lock: IO[str]) -> int:
        """Run everything that is missing; returns the exit code."""
        deadline = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes
        running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        failed: set[str] = set()
        interrupted = False
        try:
            while time.monotonic() < deadline:
                waiting = [j for j in self.ready(wanted, args.search_only) if j.name not in {*running, *failed}]
                for job in waiting[: args.side_by_side - len(running)]:
                    running[job.name] = (job, self._start(job, lock))
                if not running:
                    break
                while not any(process.poll() is not None for _, process in running.values()):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(POLL)
                for job, process in list(running.values()):
                    if process.poll() is not None:
                        del running[job.name]
                        if not self._finished(job):
                            failed.add(job.name)
                        left = self.minutes_left(wanted, args.search_only) / args.side_by_side
                        print(f"  {in_words(left)} left", flush=True)
        except KeyboardInterrupt:
            interrupted = True
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in running.values():
            process.wait()
        if running:
            print("Stopped; the same command goes on from the checkpoints.")
        return INTERRUPTED if interrupted else int(bool(failed))

    def _start(self, job: Job, lock: IO[str]) -> "subprocess.Popen[bytes]":
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "ab") as log:
            # A session of its own, so that Ctrl-C reaches it once, from here. It inherits the lock, so that nobody
            # else works on the same runs while it lives.
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
        """Keep what came out and say it; False if nothing did."""
        result = self.collect(job)
        if result is None:
            lines = (self.folder(job) / LOG).read_text().split("\n")
            print(
                f"{job.name} failed: {next((line for line in reversed(lines) if line), 'no word of why')}", flush=True
            )
            return False
        what = "validation" if job.seed is None else "test"
        error = result[f"{what}_error"]
        came = result["stopped"] if error is None else f"{what} error {error:.2f} %"
        print(f"{job.name}: {came} after {result['updates']:,} updates, {result['seconds']:.0f} s", flush=True)
        return True


def rank(trial: dict[str, Any]) -> float:
    """What a search minimises: NLL on validation, as errors hardly differ on a plateau; diverged trials come last."""
    nll = trial["validation_nll"]
    return float("inf") if nll is None else float(nll)


def key(setting: Setting) -> str:
    """Equal for equal settings."""
    return json.dumps(setting, sort_keys=True)


def matches(job: Job, run: dict[str, Any] | None) -> bool:
    """Whether a run had the job's options."""
    return run is not None and all(run["config"].get(name) == value for name, value in job.options.items())


def from_root(path: Path) -> str:
    """A path as the commands, which run at the root, are given it; it is kept in the result."""
    return os.path.relpath(path, ROOT)


def as_arguments(options: Setting) -> list[str]:
    """``{"fast_lr": 0.5, "test": False}`` -> ``["--fast-lr", "0.5", "--no-test"]``."""
    words = []
    for name, value in options.items():
        option = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return words


def in_words(minutes: float) -> str:
    """``135`` -> ``"at most about 2 h 15 min"``."""
    hours, rest = divmod(round(minutes), 60)
    return f"at most about {f'{hours} h ' if hours else ''}{rest} min"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, then list or run."""
    args = parse(Args, argv)
    for option, given, known in [("--only", args.only, TABLES), ("--cells", args.cells, [c.name for c in CELLS])]:
        for name in given:
            if name not in known:
                fail(f"{option} has {name!r}, expected some of {', '.join(known)}")
    if args.side_by_side < 1:
        fail(f"--side-by-side is {args.side_by_side}, expected at least 1")
    wanted = [cell for cell in CELLS if cell.table in args.only and (not args.cells or cell.name in args.cells)]
    runs = ROOT / "runs" / "tables"
    tables = Tables(CELLS, ROOT / "results", runs, ROOT / "train")
    try:
        show(tables, args, wanted)
    except ValueError as error:  # a result file that is damaged
        fail(str(error))
    if args.dry_run:
        return
    runs.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open(runs / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(f"{runs} is at work already: another train/tables.py, or a run that it left behind")
        sys.exit(tables.work(args, wanted, lock))


def show(tables: Tables, args: Args, wanted: Sequence[Cell]) -> None:
    """What is left, cell by cell."""
    for cell in tables.with_sources(wanted):
        trials, seeds, minutes = tables.left(cell, cell in wanted and not args.search_only)
        if trials or seeds:
            print(
                f"{cell.name:24} {trials:2} trials of {cell.search_updates:7,} updates, {seeds} seeds of "
                f"{cell.updates:7,}, {tables.ms(cell):6.1f} ms each: {minutes:5.0f} min"
            )
    total = tables.minutes_left(wanted, args.search_only)
    print(f"Left: {in_words(total)} of one process, {in_words(total / args.side_by_side)} with {args.side_by_side}.")


if __name__ == "__main__":
    main()
