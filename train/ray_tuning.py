"""The search of ``train/tune.py`` by Ray Tune: many trials at once, here or on a cluster, the poor ones cut short.

Settings are drawn at random, and successive halving (ASHA, Li et al., 2020) goes on with the best third of them each
time that they have trained three times as long. All that the trials report is kept in a journal; a search that was
stopped begins again, draws the same settings, and reads there how far each of them has come. (Ray Tune's own files of a
search do not survive to be killed while they are copied.)
"""

import json
import math
import os
import shutil
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from cli import fail
from fwagents.files import replacing
from ray_training import connect
from runs import provenance, read_json, write_json
from tune import PIECES, Choice, Range, check_same, describe, known_settings, result_path, space, train

HALVING = 3
GRACE = PIECES // 4  # pieces of the first seed's run before any trial is cut


def search(args: Any) -> None:
    """Try ``args.trials`` settings, and write the result; goes on where the same search was stopped.

    Raises:
        ValueError: the search that is to go on had other settings.
    """
    output = result_path(args)
    folder = output.with_suffix(".ray").absolute()
    described = {**describe(args), "trials_wanted": args.trials, "scheduler": f"ASHA, {HALVING}, from {GRACE} pieces"}
    about = folder / "search.json"
    check_same(read_json(about) or {}, described, folder)
    write_json(about, described)
    # It would take a Ctrl-C for itself, stop the trials under way, and return with them as if they had come to an end.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    connect(args.address, args.num_workers)
    try:
        journal = Journal(folder / "journal.jsonl")
        results = tuner(args, folder, journal).fit()
    finally:
        ray.shutdown()
    if not journal.reports:
        fail(f"no trial reported anything: {results.errors[0] if results.errors else 'see ' + str(folder)}")
    write(output, described, [result.config for result in results], journal)


class Journal(tune.Callback):
    """What every setting has reported, a line each in a file, so that the process may die at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports: dict[str, list[dict[str, float]]] = {}
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]  # the process may have died in the middle of the last line
        if whole != text:
            with replacing(path) as file:
                file.write(whole.encode())
        for line in map(json.loads, whole.splitlines()):
            self.of(line["setting"]).append(line["report"])

    def of(self, setting: dict[str, Any]) -> list[dict[str, float]]:
        """The reports of one setting, one for every piece of its runs."""
        return self.reports.setdefault(json.dumps(setting, sort_keys=True), [])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A report has come in; those that were read here are not written again."""
        reports = self.of(trial.config)
        if result["training_iteration"] > len(reports):
            reports.append({name: result[name] for name in ("area", "of_seed", "seconds")})
            with open(self.path, "a") as file:
                file.write(json.dumps({"setting": trial.config, "report": reports[-1]}) + "\n")


def tuner(args: Any, folder: Path, journal: Journal) -> tune.Tuner:
    """The search from its beginning; what is in the journal takes it no time."""
    trials = folder / "trials"
    shutil.rmtree(trials, ignore_errors=True)
    return tune.Tuner(
        tune.with_parameters(trial, args=args, journal=journal),
        param_space={name: domain(part) for name, part in space(args.core).items()},
        tune_config=tune.TuneConfig(
            metric="area",
            mode="max",
            num_samples=args.trials,
            search_alg=BasicVariantGenerator(
                points_to_evaluate=known_settings(args), max_concurrent=args.num_workers, random_state=0
            ),
            scheduler=ASHAScheduler(
                max_t=PIECES * len(args.seeds), grace_period=GRACE, reduction_factor=HALVING, stop_last_trials=False
            ),
        ),
        run_config=tune.RunConfig(name="trials", storage_path=str(folder), verbose=0, callbacks=[journal]),
    )


def trial(setting: dict[str, Any], args: Any, journal: Journal) -> None:
    """One setting on every seed after the other; reports the mean area after every piece of a run.

    What is known is reported first, and a run that was stopped in its middle trains anew, as it did, without a word
    until it is where it was.
    """
    known = journal.of(setting)
    for report in known:
        tune.report(report)
    if known and not math.isfinite(known[-1]["area"]):
        return
    begun = time.monotonic() - (known[-1]["seconds"] if known else 0.0)
    areas = [report["of_seed"] for report in known[PIECES - 1 :: PIECES]]

    def tell(area: float, of_seed: float) -> None:
        tune.report({"area": area, "of_seed": of_seed, "seconds": time.monotonic() - begun})

    def note(piece: int, area: float) -> None:
        if PIECES * len(areas) + piece > len(known):
            tell(fmean([*areas, area]), area)
        if piece == PIECES:
            areas.append(area)

    try:
        for seed in args.seeds[len(areas) :]:
            train(args, setting, seed, note)
    except FloatingPointError:
        tell(-math.inf, -math.inf)


def domain(part: Range | Choice) -> Any:
    """A part of the space in Ray Tune's words."""
    if isinstance(part, Choice):
        return tune.choice(list(part.values))
    if part.whole:
        low, high = int(part.low), int(part.high) + 1  # which Ray Tune leaves out
        return tune.lograndint(low, high) if part.log else tune.randint(low, high)
    return tune.loguniform(part.low, part.high) if part.log else tune.uniform(part.low, part.high)


def write(output: Path, described: dict[str, Any], settings: list[dict[str, Any]], journal: Journal) -> None:
    """The space, every trial and the winner; only a trial that was not cut short can win."""
    rows = []
    for number, setting in enumerate(settings):
        reports = journal.of(setting)
        value = reports[-1]["area"] if reports else -math.inf
        rows.append(
            {
                "number": number,
                "value": value if math.isfinite(value) else None,
                "pieces": len(reports),
                "setting": setting,
                "seconds": reports[-1]["seconds"] if reports else None,
            }
        )
    longest = max(row["pieces"] for row in rows)
    whole = [row for row in rows if row["value"] is not None and row["pieces"] == longest]
    winner = max(whole, key=lambda row: row["value"]) if whole else None
    for row in rows:
        value = "stopped" if row["value"] is None else f"{row['value']:.3f}"
        print(f"{row['number'] + 1}/{len(rows)}: {value} after {row['pieces']} pieces  {row['setting']}", flush=True)
    write_json(output, {**provenance(), **described, "winner": winner, "trials": rows})
