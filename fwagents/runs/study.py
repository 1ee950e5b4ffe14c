"""The study of ``fwagents tune``: workers share one journal and try settings, which TPE draws from the earlier trials.

A search has three parts: ``--trials`` settings, the current settings first; the winners of other cores' searches
(``--borrow``); and long runs of the best of all these (``--finalists``). A worker begins a part when all trials of the
previous part have ended. The journal beside the result records what is done.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from fwagents.machine import commit
from fwagents.runs.folder import provenance, read_json, write_json
from fwagents.runs.locks import Claims
from fwagents.runs.search import (
    BORROWED,
    COMMON,
    PIECES,
    Choice,
    Range,
    best,
    check_output,
    check_same,
    describe,
    known_settings,
    result_path,
    space,
    train,
)

OVER = (TrialState.COMPLETE, TrialState.PRUNED)
UNDER_WAY = (TrialState.RUNNING, TrialState.WAITING)
REDUCTION = 3  # halving continues the best third of the trials
GRACE = PIECES // 4  # pieces that every trial trains before halving can stop it
POLL = 0.2  # seconds between two checks of the other workers' progress
# Numbers of the claims: one for the study, one for each finalist by its trial, one for each trial.
STUDY, FINALS, TRIALS = 0, 1, 10**6
Row = dict[str, Any]  # a trial as the result file holds it


def search(args: Any) -> None:
    """Make or resume the search with ``args.num_workers`` workers; the result is written after each trial.

    Raises:
        ValueError: the search to resume had other options, or a file of ``--borrow`` is not the result of a search.
    """
    own = Study(args)
    with workers(args, args.num_workers - 1):
        own.run()


@contextmanager
def workers(args: Any, count: int) -> Iterator[None]:
    """Keep processes at work on the study while the block runs; an exception in the block ends the processes."""
    context = get_context("spawn")
    processes: list[BaseProcess] = [context.Process(target=_work, args=(args,)) for _ in range(count)]
    # The processes inherit the blocked signal: Ctrl-C reaches only this process, which ends the others.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()


def _work(args: Any) -> None:
    """Run a worker in its own process; SIGTERM ends it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an exception, which releases the journal
    try:
        Study(args).run()
    except (ValueError, TypeError, AssertionError, OSError, ImportError) as error:
        print(f"A worker has stopped: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        pass


class Study:
    """One worker's view of a study that is new, was stopped, or has other workers.

    Args:
        args: the options of ``fwagents tune``.

    Raises:
        ValueError: the study had other options, its journal is damaged, or a file of ``--borrow`` is not the result of
            a search.
    """

    def __init__(self, args: Any) -> None:
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # the caller says in one line what stops the search
        self.args, self.output, self.described = args, result_path(args), describe(args)
        self.lent = {path.name: lent(path, args.env) for path in args.borrow}
        journal = self.output.with_suffix(".journal")
        check_output(self.output, self.described, journal)
        journal.parent.mkdir(parents=True, exist_ok=True)
        self.claims = Claims(self.output.with_suffix(".workers"))
        with self.claims.alone(STUDY):
            self.study = opened(journal)
            check_same(self.study.user_attrs, self.described, journal)
            for key, value in self.described.items():
                if key not in self.study.user_attrs:
                    self.study.set_user_attr(key, value)
        if args.pruner == "halving":
            self.study.pruner = optuna.pruners.SuccessiveHalvingPruner(GRACE, REDUCTION)

    def run(self) -> None:
        """Work on the three parts, one after the other."""
        with self.claims.alone(STUDY):
            for setting in known_settings(self.args):
                self.want(setting)
        self.try_all()
        with self.claims.alone(STUDY):
            found = best(self.own())
            for name, setting in self.lent.items():
                self.want({**(found["setting"] if found else {}), **setting}, **{BORROWED: name})
        self.try_all()
        self.described |= {"borrowed": list(self.lent)}
        self.described |= {"finalists_wanted": self.args.finalists, "final_steps": self.args.final_steps}
        self.write(self.finals(), over=True)

    def want(self, setting: dict[str, Any], **attributes: Any) -> None:
        """Queue a setting, unless it was tried, is running or is queued."""
        for trial in self.study.get_trials(deepcopy=False, states=(*OVER, *UNDER_WAY)):
            if setting.items() <= set_in(trial).items():
                return
        self.study.enqueue_trial(setting, user_attrs=attributes)

    def try_all(self) -> None:
        """Try settings until ``--trials`` have ended, without the borrowed ones, and none is queued or running."""
        while True:
            with self.claims.alone(STUDY):
                self.want_lost()
                trial = self.ask()
            if trial is not None:
                self.try_one(trial)
            elif self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                time.sleep(POLL)
            else:
                return

    def want_lost(self) -> None:
        """Queue again the trials of processes that have died: such a trial is running, but no process claims it."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self.claims.take(TRIALS + trial.number):
                self.claims.give(TRIALS + trial.number)
                self.study.tell(trial.number, state=TrialState.FAIL)
                if setting := set_in(trial):
                    lender = {name: value for name, value in trial.user_attrs.items() if name == BORROWED}
                    self.study.enqueue_trial(setting, user_attrs=lender)

    def ask(self) -> Trial | None:
        """Claim and return the next trial; None if enough trials have ended or are running."""
        trials = self.study.get_trials(deepcopy=False)
        counted = [t for t in trials if t.state in (*OVER, *UNDER_WAY) and BORROWED not in t.user_attrs]
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting and len(counted) >= self.args.trials:
            return None
        # Samplers with one seed would draw the same setting twice. ``constant_liar`` counts a running trial as a poor
        # one, so that no two workers draw similar settings.
        begun = sum(trial.state != TrialState.WAITING for trial in trials)
        self.study.sampler = optuna.samplers.TPESampler(seed=begun, multivariate=True, constant_liar=True)
        trial = self.study.ask()
        self.claims.take(TRIALS + trial.number)
        return trial

    def try_one(self, trial: Trial) -> None:
        """Train with the trial's setting and record the result."""
        try:
            value, state = self.objective(trial), TrialState.COMPLETE
        except optuna.TrialPruned:
            value, state = None, TrialState.PRUNED
        except Exception:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        with self.claims.alone(STUDY):
            self.study.tell(trial, value, state)
            self.claims.give(TRIALS + trial.number)
            self.write_rows()
            rows = self.rows()
            left = len(self.study.get_trials(deepcopy=False, states=UNDER_WAY))
        leader = best(rows)
        shown = "stopped" if value is None else f"{value:.3f}"
        highest = "none" if leader is None else f"{leader['value']:.3f}"
        count = max(self.args.trials, len(rows) + left)
        print(f"{len(rows)}/{count}: {shown}, best {highest}  {trial.params}", flush=True)

    def objective(self, trial: Trial) -> float:
        """Return the mean over the seeds of the area under the curve.

        Raises:
            optuna.TrialPruned: training diverges, or the pruner stops the trial.
        """
        setting = {name: suggest(trial, name, part) for name, part in space(self.args.core).items()}
        trial.set_user_attr("commit", commit(Path(__file__).parent))  # a search may be resumed with later code
        areas: list[float] = []

        def report(piece: int, area: float) -> None:
            step, value = PIECES * len(areas) + piece, fmean([*areas, area])
            trial.report(value, step)
            if trial.should_prune():
                trial.set_user_attr("stopped", f"by halving: {value:.3f} after {step} pieces")
                raise optuna.TrialPruned

        try:
            for seed in self.args.seeds:
                areas.append(train(self.args, setting, seed, report if self.args.pruner == "halving" else None))
        except FloatingPointError as error:
            trial.set_user_attr("stopped", str(error))
            raise optuna.TrialPruned from error
        trial.set_user_attr("areas", areas)
        return fmean(areas)

    def finals(self) -> list[Row]:
        """Return the long runs of the best trials and of the starting settings; each is made by one worker."""
        wanted = finalists(self.rows(), self.args.finalists, known_settings(self.args))
        while True:
            final = self.kept_finals(wanted)
            left = [row for row in wanted if row["number"] not in {each["number"] for each in final}]
            if not left:
                return final
            claimed = next((row for row in left if self.claims.take(FINALS + row["number"])), None)
            if claimed is None:
                time.sleep(POLL)
                continue
            # Another worker may have made it since this worker checked.
            if claimed["number"] not in {row["number"] for row in self.kept_finals(wanted)}:
                self.make_final(claimed, wanted)
            self.claims.give(FINALS + claimed["number"])

    def make_final(self, row: Row, wanted: Sequence[Row]) -> None:
        """Make the long runs of one trial's setting."""
        long = replace(self.args, total_timesteps=self.args.final_steps)
        made = last_test(long, row["setting"])
        self.study.set_user_attr(self.final_name(row), made)
        print(f"trial {row['number'] + 1}, {long.total_timesteps:,} steps: {made['value']}", flush=True)
        self.write(self.kept_finals(wanted))

    def kept_finals(self, wanted: Sequence[Row]) -> list[Row]:
        """Return the finalists whose long runs are done."""
        kept = self.study.user_attrs
        return [{**row, **kept[self.final_name(row)]} for row in wanted if self.final_name(row) in kept]

    def final_name(self, row: Row) -> str:
        """Return the name under which a finalist's long runs are stored."""
        return f"trial {row['number']} in {self.args.final_steps:,} steps"

    def rows(self) -> list[Row]:
        """Return the trials that have ended; a trial that was stopped has no value."""
        return [
            {
                "number": trial.number,
                "value": trial.value if trial.state == TrialState.COMPLETE else None,
                **trial.user_attrs,
                "setting": trial.params,
                "seconds": trial.duration and trial.duration.total_seconds(),
            }
            for trial in self.study.get_trials(states=OVER)
        ]

    def own(self) -> list[Row]:
        """Return the rows of the trials that are not borrowed."""
        return [row for row in self.rows() if BORROWED not in row]

    def write(self, final: Sequence[Row] = (), over: bool = False) -> None:
        """Call ``write_rows`` while no other worker writes."""
        with self.claims.alone(STUDY):
            self.write_rows(final, over)

    def write_rows(self, final: Sequence[Row] = (), over: bool = False) -> None:
        """Write the space, every trial, every finalist and the winner; the file is complete or unchanged."""
        rows = self.rows()
        finals = {"finalists": list(final)} if final else {}
        result = {**self.described, "over": over, "winner": best(final or rows), **finals, "trials": rows}
        write_json(self.output, {**provenance(), **result})


def opened(journal: Path) -> optuna.Study:
    """Return the study of a journal, which is made if absent.

    Raises:
        ValueError: the file is not a journal.
    """
    mend(journal)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(study_name="search", storage=storage, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{journal} is not the journal of a search: {error}") from error


def mend(journal: Path) -> None:
    """Cut off an incomplete last line, which a crashed machine leaves and to which the next line would be joined.

    Raises:
        ValueError: the file has no complete line.
    """
    if not journal.exists():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if content and not whole:
            raise ValueError(f"{journal} is not the journal of a search: it has no whole line")
        os.truncate(journal, whole)
    finally:
        lock.release()


def set_in(trial: FrozenTrial) -> dict[str, Any]:
    """Return the trial's setting, as far as it was drawn or queued."""
    return {**trial.params, **trial.system_attrs.get("fixed_params", {})}


def suggest(trial: Trial, name: str, part: Range | Choice) -> Any:
    """Return the trial's value for one part of the space."""
    if isinstance(part, Choice):
        return trial.suggest_categorical(name, part.values)
    if part.whole:
        return trial.suggest_int(name, int(part.low), int(part.high), log=part.log)
    return trial.suggest_float(name, part.low, part.high, log=part.log)


def finalists(rows: Sequence[Row], count: int, known: Sequence[dict[str, Any]]) -> list[Row]:
    """Return the best ``count`` trials, and the trials of the ``known`` settings; none if ``count`` is 0."""
    whole = sorted((row for row in rows if row["value"] is not None), key=lambda row: row["value"], reverse=True)
    return [
        row
        for place, row in enumerate(whole)
        if place < count or (count and any(k.items() <= row["setting"].items() for k in known))
    ]


def last_test(args: Any, setting: dict[str, Any]) -> Row:
    """Evaluate a setting in long runs; the value is None if one of them has to be stopped."""
    began = time.monotonic()
    try:
        areas = [train(args, setting, seed) for seed in args.seeds]
    except FloatingPointError as error:
        return {"value": None, "stopped": str(error)}
    return {"value": fmean(areas), "areas": areas, "seconds": time.monotonic() - began}


def lent(path: Path, env: str) -> dict[str, Any]:
    """Return the common options of the winner of another core's search. Trials which that search borrowed do not count.

    Raises:
        ValueError: the file is not the result of a search on this environment.
    """
    kept = read_json(path)
    if not isinstance(kept, dict) or kept.get("env") != env or "trials" not in kept:
        raise ValueError(f"--borrow has {path}, expected the result of a search on {env}")
    winner = best([row for row in kept["trials"] if BORROWED not in row])
    return {name: value for name, value in winner["setting"].items() if name in COMMON} if winner else {}
