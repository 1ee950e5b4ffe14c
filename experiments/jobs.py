"""Running what is missing, so many processes at a time, so that it can be stopped or killed and called again."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Annotated, Any, Generic, NamedTuple, Protocol, TypeVar

from fwagents.runs.cli import fail
from fwagents.runs.folder import CONFIG, read_json
from fwagents.runs.interrupts import INTERRUPTED
from fwagents.runs.locks import alone_in
from fwagents.runs.options import Threads, at_least

ROOT = Path(__file__).parent.parent
LOG = "log.txt"
POLL = 0.2  # seconds
SHOWN = 6  # names, where an error says what could be


class Job(Protocol):
    """Something that one process does."""

    @property
    def name(self) -> str:
        """What it is called on the screen, unlike any other."""


JobT = TypeVar("JobT", bound=Job)


@dataclass
class BoardArgs:
    """What every script that works on a board can be told."""

    only: tuple[str, ...] = ()
    """Tables or figures to fill; none is all."""
    cells: tuple[str, ...] = ()
    """Cells to run, by name; none is all."""
    dry_run: bool = False
    """Run nothing and write nothing; list what is left."""
    minutes: Annotated[float, at_least(0)] | None = None
    """Stop after so long; what is under way then goes on at the next call."""
    num_workers: Threads = 2
    """Runs at a time."""


class Cell(Protocol):
    """Something to fill."""

    @property
    def name(self) -> str:
        """Of its files."""


CellT = TypeVar("CellT", bound=Cell)


def wanted(args: BoardArgs, cells: Sequence[CellT], group: Callable[[CellT], str]) -> list[CellT]:
    """The cells that the command line asks for; leaves with an error at what it cannot be.

    Args:
        args: the command line.
        cells: all there are.
        group: the table or figure that a cell stands in.
    """
    groups, names = dict.fromkeys(map(group, cells)), [cell.name for cell in cells]
    for option, given, known in [("--only", args.only, groups), ("--cells", args.cells, names)]:
        for name in given:
            if name not in known:
                likely = get_close_matches(name, known, SHOWN, cutoff=0.0)  # of hundreds of cells
                some = list(known) if len(known) <= SHOWN else [*likely, "..."]
                fail(f"{option} has {name!r}, expected some of {', '.join(some)}")
    return [
        cell
        for cell in cells
        if (not args.only or group(cell) in args.only) and (not args.cells or cell.name in args.cells)
    ]


class Budget(NamedTuple):
    """How long to work on a board, and how much at a time.

    Attributes:
        num_workers: processes at a time.
        minutes: after which it stops; None for when all is done.
    """

    num_workers: int = 2
    minutes: float | None = None


class Board(ABC, Generic[JobT]):
    """What is there and what is missing. It is read from files, so nothing is lost with the process.

    Args:
        runs: folder of the runs.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    @abstractmethod
    def ready(self) -> list[JobT]:
        """What is missing and can run now, the most urgent first."""

    @abstractmethod
    def script(self, job: JobT) -> Path:
        """What runs it."""

    @abstractmethod
    def options(self, job: JobT) -> dict[str, Any]:
        """The script's options."""

    @abstractmethod
    def resumable(self, run: Path) -> bool:
        """Whether a run has a checkpoint to go on from."""

    @abstractmethod
    def collect(self, job: JobT) -> str | None:
        """Keep the result of the job's run, if it has ended; returns what came out, in a few words."""

    @abstractmethod
    def minutes_left(self) -> float:
        """Minutes of one process that everything missing takes at most."""

    def folder(self, job: JobT) -> Path:
        """Where a job's runs go."""
        return self.runs / self.script(job).stem / job.name.replace(" ", "-")

    def newest_run(self, job: JobT) -> Path | None:
        """The newest run of a job's options, if there is one."""
        found = [path.parent for path in self.folder(job).glob(f"*/*/{CONFIG}")]
        options = self.options(job)
        same = [path for path in found if had(options, (read_json(path / CONFIG) or {}).get("args", {}))]
        return max(same, key=lambda path: (path / CONFIG).stat().st_mtime, default=None)

    def command(self, job: JobT) -> list[str]:
        """What runs the job, or goes on with it."""
        script = [sys.executable, from_root(self.script(job))]
        run = self.newest_run(job)
        if run is not None and self.resumable(run):
            # One that ended when nobody looked will say so, and its result is then collected.
            return [*script, "--resume", from_root(run)]
        return [*script, *as_arguments(self.options(job)), "--log-dir", from_root(self.folder(job))]

    def work(self, budget: Budget, lock: IO[str]) -> int:
        """Run everything that is missing; returns the exit code."""
        deadline = float("inf") if budget.minutes is None else time.monotonic() + 60 * budget.minutes
        running: dict[str, tuple[JobT, subprocess.Popen[bytes]]] = {}
        failed: set[str] = set()
        interrupted = False
        try:
            while time.monotonic() < deadline:
                waiting = [job for job in self.ready() if job.name not in {*running, *failed}]
                for job in waiting[: budget.num_workers - len(running)]:
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
                        print(f"  {in_words(self.minutes_left() / budget.num_workers)} left", flush=True)
        except KeyboardInterrupt:
            interrupted = True
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in running.values():
            process.wait()
        if running:
            print("Stopped; the same command goes on from the checkpoints.")
        return INTERRUPTED if interrupted else int(bool(failed))

    def _start(self, job: JobT, lock: IO[str]) -> "subprocess.Popen[bytes]":
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

    def _finished(self, job: JobT) -> bool:
        """Keep what came out and say it; False if nothing did."""
        came = self.collect(job)
        if came is None:
            lines = (self.folder(job) / LOG).read_text().split("\n")
            why = next((line for line in reversed(lines) if line), "no word of why")
            print(f"{job.name} failed: {why}", flush=True)
            return False
        print(f"{job.name}: {came}", flush=True)
        return True


def list_or_run(board: Board[Any], args: BoardArgs, show: Callable[[], None]) -> None:
    """List what is left; then work on it until all is there or the time is up, write the report, and leave.

    A dry run lists and writes nothing.

    Args:
        board: what is left.
        args: the command line.
        show: prints it, a line for each.
    """
    try:
        show()
        total = board.minutes_left()
    except ValueError as error:  # a result file that is damaged
        fail(str(error))
    share = in_words(total / args.num_workers)
    print(f"Left: {in_words(total)} of one process, {share} with {args.num_workers}.")
    if args.dry_run:
        return
    if code := run(board, Budget(args.num_workers, args.minutes)):
        sys.exit(code)
    from experiments import report

    report.main([])


def run(board: Board[Any], budget: Budget) -> int:
    """Work on a board, alone on its runs; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    busy = f"{board.runs} is at work already: another {Path(sys.argv[0]).name}, or a run that it left behind"
    with alone_in(board.runs, busy) as lock:
        return board.work(budget, lock)


def had(options: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a run's config has the options."""
    return all(name in config and config[name] == value for name, value in options.items())


def from_root(path: Path) -> str:
    """A path as the commands, which run at the root, are given it; it is kept in the result."""
    return os.path.relpath(path, ROOT)


def as_arguments(options: dict[str, Any]) -> list[str]:
    """``{"fast_lr": 0.5, "test": False, "env_kwargs": ["size=8"]}``: ``--fast-lr 0.5 --no-test --env-kwargs size=8``"""
    words = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return words


def in_words(minutes: float) -> str:
    """``135`` -> ``"at most about 2 h 15 min"``."""
    hours, rest = divmod(round(minutes), 60)
    return f"at most about {f'{hours} h ' if hours else ''}{rest} min"
