"""The search of ``train/tune.py`` by Ray Tune: many trials at once, here or on a cluster, the poor ones cut short.

Settings are drawn at random, and successive halving (ASHA, Li et al., 2020) goes on with the best third of them each
time that they have trained three times as long.
"""

import math
import os
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from cli import fail
from ray_training import connect
from runs import provenance, read_json, write_json
from tune import PIECES, Choice, Range, check_same, describe, known_settings, result_path, space, train

HALVING = 3
EVERY = "1"  # seconds between two states of the search on disk, so much may be lost
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
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", EVERY)
    # It would take a Ctrl-C for itself, stop the trials under way, and return with them as if they had come to an end.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    connect(args.address, args.num_workers)
    try:
        results = tuner(args, folder).fit()
        write(output, described, results)
    finally:
        ray.shutdown()
    if not any(result.metrics and "area" in result.metrics for result in results):
        fail(f"no trial came to an end: {results.errors[0] if results.errors else 'see ' + str(folder)}")


def tuner(args: Any, folder: Path) -> tune.Tuner:
    """A new search, or the one in the folder as far as it has come."""
    trainable = tune.with_parameters(trial, args=args)
    param_space = {name: domain(part) for name, part in space(args.core).items()}
    trials = folder / "trials"
    if any(trials.glob("experiment_state-*.json")):
        return tune.Tuner.restore(
            str(trials), trainable, resume_unfinished=True, restart_errored=True, param_space=param_space
        )
    shutil.rmtree(trials, ignore_errors=True)  # of a search that was killed before it had tried anything
    return tune.Tuner(
        trainable,
        param_space=param_space,
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
        run_config=tune.RunConfig(name="trials", storage_path=str(folder), verbose=0),
    )


def trial(setting: dict[str, Any], args: Any) -> None:
    """One setting on every seed after the other; reports the mean area after every piece of a run."""
    areas: list[float] = []
    try:
        for seed in args.seeds:
            areas.append(train(args, setting, seed, lambda area: tune.report({"area": fmean([*areas, area])})))
    except FloatingPointError:
        tune.report({"area": -math.inf})


def domain(part: Range | Choice) -> Any:
    """A part of the space in Ray Tune's words."""
    if isinstance(part, Choice):
        return tune.choice(list(part.values))
    if part.whole:
        low, high = int(part.low), int(part.high) + 1  # which Ray Tune leaves out
        return tune.lograndint(low, high) if part.log else tune.randint(low, high)
    return tune.loguniform(part.low, part.high) if part.log else tune.uniform(part.low, part.high)


def write(output: Path, described: dict[str, Any], results: Any) -> None:
    """The space, every trial and the winner; only a trial that was not cut short can win."""
    rows = []
    # Gone on with, a search lists them in another order; their folders are trial_<search>_<number>_...
    for number, result in enumerate(sorted(results, key=lambda result: Path(result.path).name.split("_")[2])):
        metrics = result.metrics or {}
        value = metrics.get("area", -math.inf)
        rows.append(
            {
                "number": number,
                "value": value if math.isfinite(value) else None,
                "pieces": metrics.get("training_iteration", 0),
                "setting": result.config,
                "seconds": metrics.get("time_total_s"),
            }
        )
    longest = max(row["pieces"] for row in rows)
    whole = [row for row in rows if row["value"] is not None and row["pieces"] == longest]
    winner = max(whole, key=lambda row: row["value"]) if whole else None
    for row in rows:
        value = "stopped" if row["value"] is None else f"{row['value']:.3f}"
        print(f"{row['number'] + 1}/{len(rows)}: {value} after {row['pieces']} pieces  {row['setting']}", flush=True)
    write_json(output, {**provenance(), **described, "winner": winner, "trials": rows})
