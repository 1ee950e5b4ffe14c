"""The search of ``fwagents tune`` by Optuna: a trial after the other, each drawn from what those before it say (TPE).

Its parts: ``--trials`` settings, the one in use first; the winners of other cores' searches (``--borrow``); and long
runs of the best of all these (``--finalists``). A study in a database beside the result knows what is done.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import optuna
from optuna.trial import TrialState

from fwagents.machine import commit
from fwagents.runs.folder import provenance, read_json, write_json
from fwagents.runs.search import (
    BORROWED,
    COMMON,
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
Row = dict[str, Any]  # a trial as it is written down


def search(args: Any) -> None:
    """Make the search, or what is left of it, writing the result after each trial.

    Raises:
        ValueError: the search that is to go on had other settings, or what is to be borrowed is no search's result.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what stops the search is said in one line, by the caller
    Search(args).run()


class Search:
    """A study, new or as it was left.

    Args:
        args: of ``fwagents tune``.

    Raises:
        ValueError: it had other settings, or what is to be borrowed is no search's result.
    """

    def __init__(self, args: Any) -> None:
        self.args, self.output, self.described = args, result_path(args), describe(args)
        self.lent = {path.name: lent(path, args.env) for path in args.borrow}
        database = self.output.with_suffix(".sqlite3")
        check_output(self.output, self.described, database)
        database.parent.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            study_name="search", storage=f"sqlite:///{database}", direction="maximize", load_if_exists=True
        )
        check_same(self.study.user_attrs, self.described, database)
        for key, value in self.described.items():
            self.study.set_user_attr(key, value)
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)  # it was killed half-way
        # A sampler that began with the same seed again would draw again what it has drawn.
        self.study.sampler = optuna.samplers.TPESampler(seed=len(self.study.trials), multivariate=True)

    def run(self) -> None:
        """All parts, one after the other."""
        args = self.args
        for setting in known_settings(args):
            self.want(setting)
        while len(self.own()) < args.trials:
            self.try_one(args.trials)
        found = best(self.own())
        for name, setting in self.lent.items():
            self.want({**(found["setting"] if found else {}), **setting}, **{BORROWED: name})
        while waiting := self.study.get_trials(states=(TrialState.WAITING,)):
            self.try_one(len(self.rows()) + len(waiting))
        self.described |= {"borrowed": list(self.lent)}
        self.described |= {"finalists_wanted": args.finalists, "final_steps": args.final_steps}
        self.write(self.finals(), over=True)

    def want(self, setting: dict[str, Any], **attributes: Any) -> None:
        """Try a setting next, unless it was tried or waits."""
        for trial in self.study.get_trials(states=(*OVER, TrialState.WAITING)):
            if setting.items() <= {**trial.params, **trial.system_attrs.get("fixed_params", {})}.items():
                return
        self.study.enqueue_trial(setting, user_attrs=attributes)

    def try_one(self, count: int) -> None:
        """One trial, of so many."""
        self.study.optimize(self.objective, n_trials=1)
        last = max(self.study.get_trials(states=OVER), key=lambda trial: cast(datetime, trial.datetime_complete))
        leader = best(self.rows())
        value = "stopped" if last.value is None else f"{last.value:.3f}"
        highest = "none" if leader is None else f"{leader['value']:.3f}"
        print(f"{len(self.rows())}/{count}: {value}, best {highest}  {last.params}", flush=True)
        self.write()

    def objective(self, trial: Any) -> float:
        """The mean over the seeds of the area under the curve; a setting that makes numbers infinite is given up."""
        setting = {name: suggest(trial, name, part) for name, part in space(self.args.core).items()}
        trial.set_user_attr("commit", commit(Path(__file__).parent))  # a search may go on with later code
        try:
            areas = [train(self.args, setting, seed) for seed in self.args.seeds]
        except FloatingPointError as error:
            trial.set_user_attr("stopped", str(error))
            raise optuna.TrialPruned from error
        trial.set_user_attr("areas", areas)
        return fmean(areas)

    def finals(self) -> list[Row]:
        """The best trials and those that the search began with, as they do in long runs."""
        long = replace(self.args, total_timesteps=self.args.final_steps)
        attribute = f"finals of {long.total_timesteps:,} steps"
        kept = self.study.user_attrs.get(attribute, {})
        final: list[Row] = []
        for row in finalists(self.rows(), self.args.finalists, known_settings(self.args)):
            number = str(row["number"])
            if number not in kept:
                kept[number] = last_test(long, row["setting"])
                self.study.set_user_attr(attribute, kept)
                print(f"trial {row['number'] + 1}, {long.total_timesteps:,} steps: {kept[number]['value']}", flush=True)
            final.append({**row, **kept[number]})
            self.write(final)
        return final

    def rows(self) -> list[Row]:
        """The trials that are over."""
        return [
            {
                "number": trial.number,
                "value": trial.value,
                **trial.user_attrs,
                "setting": trial.params,
                "seconds": trial.duration and trial.duration.total_seconds(),
            }
            for trial in self.study.get_trials(states=OVER)
        ]

    def own(self) -> list[Row]:
        """Those of them that are not borrowed."""
        return [row for row in self.rows() if BORROWED not in row]

    def write(self, final: Sequence[Row] = (), over: bool = False) -> None:
        """The space, every trial, every finalist and the winner, whole or not at all."""
        rows = self.rows()
        finals = {"finalists": list(final)} if final else {}
        result = {**self.described, "over": over, "winner": best(final or rows), **finals, "trials": rows}
        write_json(self.output, {**provenance(), **result})


def suggest(trial: Any, name: str, part: Range | Choice) -> Any:
    """The trial's value for one part of the space."""
    if isinstance(part, Choice):
        return trial.suggest_categorical(name, part.values)
    if part.whole:
        return trial.suggest_int(name, int(part.low), int(part.high), log=part.log)
    return trial.suggest_float(name, part.low, part.high, log=part.log)


def finalists(rows: Sequence[Row], count: int, known: Sequence[dict[str, Any]]) -> list[Row]:
    """The best ``count`` trials, and those of the settings that were known before; none if ``count`` is 0."""
    whole = sorted((row for row in rows if row["value"] is not None), key=lambda row: row["value"], reverse=True)
    return [
        row
        for place, row in enumerate(whole)
        if place < count or (count and any(k.items() <= row["setting"].items() for k in known))
    ]


def last_test(args: Any, setting: dict[str, Any]) -> Row:
    """How a setting does in long runs; one that has to be stopped makes the value None."""
    began = time.monotonic()
    try:
        areas = [train(args, setting, seed) for seed in args.seeds]
    except FloatingPointError as error:
        return {"value": None, "stopped": str(error)}
    return {"value": fmean(areas), "areas": areas, "seconds": time.monotonic() - began}


def lent(path: Path, env: str) -> dict[str, Any]:
    """What the winner of another core's search shares with every core; what it borrowed itself does not count.

    Raises:
        ValueError: it is not such a search's result, or of another environment.
    """
    kept = read_json(path)
    if not isinstance(kept, dict) or kept.get("env") != env or "trials" not in kept:
        raise ValueError(f"--borrow has {path}, expected the result of a search on {env}")
    winner = best([row for row in kept["trials"] if BORROWED not in row])
    return {name: value for name, value in winner["setting"].items() if name in COMMON} if winner else {}
