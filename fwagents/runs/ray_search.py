"""The search of ``fwagents tune`` by Ray Tune: many trials at once, here or on a cluster, the poor ones cut short.

Settings are drawn at random, and successive halving (ASHA, Li et al., 2020) goes on with the best third of them each
time that they have trained three times as long. All that the trials report is kept in a journal; a search that was
stopped begins again, draws the same settings, and reads there how far each of them has come. Who is cut short may then
be another, as it is whenever trials report in another order; what has come to its end stays. (Ray Tune's own files of a
search do not survive a kill while they are being copied.)
"""

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from fwagents.runs.cli import fail
from fwagents.runs.folder import provenance, read_json, write_json
from fwagents.runs.locks import alone_in
from fwagents.runs.ray import connect
from fwagents.runs.search import (
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

HALVING = 3
GRACE = PIECES // 4  # pieces of the first seed's run before any trial is cut


def search(args: Any) -> None:
    """Try ``args.trials`` settings, and write the result; goes on where the same search was stopped.

    Raises:
        ValueError: the search that is to go on had other settings.
    """
    output = result_path(args)
    folder = output.with_suffix(".ray").absolute()
    described = {
        **describe(args),
        "trials_wanted": args.trials,
        "scheduler": f"ASHA, {HALVING}, from {GRACE} pieces",
    }
    check_output(output, described, folder)
    with alone_in(folder, f"another process is at the search in {folder}: one at a time"):
        about = folder / "search.json"
        check_same(read_json(about) or {}, described, folder)
        write_json(about, described)
        journal = Journal(folder / "journal.jsonl")
        # It would take a Ctrl-C for itself, stop the trials under way, and return as if they had come to an end.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        connect(args.address, args.num_workers)
        try:
            results = tuner(args, folder, journal).fit()
        finally:
            ray.shutdown()
        winner = write(output, described, [result.config for result in results], journal)
    if winner is None:
        fail(f"no trial came to an end: {results.errors[0] if results.errors else f'see {output}'}")


def key(setting: dict[str, Any]) -> str:
    """What a setting is known by."""
    return json.dumps(setting, sort_keys=True)


class Journal(tune.Callback):  # type: ignore[misc]
    """What every setting has reported, a line each in a file, so that the process may die at any time.

    Attributes:
        reports: by :func:`key`, one for every piece of its runs; and one more of ``-inf`` if it had to stop.

    Raises:
        ValueError: a line is not one of a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports: dict[str, list[dict[str, float]]] = {}
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # the process died in the middle of the last line
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self._add(entry["setting"], entry["report"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is {line!r}, expected a setting and its report") from error

    def _add(self, setting: dict[str, Any], report: dict[str, float]) -> None:
        self.reports.setdefault(key(setting), []).append(report)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A report has come in; those that were read here are not written again."""
        if result["training_iteration"] > len(self.reports.get(key(trial.config), ())):
            report = {name: result[name] for name in ("area", "of_seed", "seconds")}
            with open(self.path, "a") as file:
                file.write(json.dumps({"setting": trial.config, "report": report}) + "\n")
            self._add(trial.config, report)


def tuner(args: Any, folder: Path, journal: Journal) -> tune.Tuner:
    """The search from its beginning; for what is in the journal nothing is trained again."""
    trials = folder / "trials"
    shutil.rmtree(trials, ignore_errors=True)
    return tune.Tuner(
        tune.with_parameters(trial, args=args, known=journal.reports),
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


def trial(setting: dict[str, Any], args: Any, known: dict[str, list[dict[str, float]]]) -> None:
    """One setting on every seed after the other; reports the mean area after every piece of a run.

    What is known, by setting, is reported first, and a run that was stopped in its middle trains anew, as it did,
    without a word until it is where it was; its seconds count twice.
    """
    before = known.get(key(setting), [])
    for report in before:
        tune.report(report)
    if before and not math.isfinite(before[-1]["area"]):
        return
    begun = time.monotonic() - (before[-1]["seconds"] if before else 0.0)
    areas = [report["of_seed"] for report in before[PIECES - 1 :: PIECES]]

    def tell(area: float, of_seed: float) -> None:
        tune.report({"area": area, "of_seed": of_seed, "seconds": time.monotonic() - begun})

    def note(piece: int, area: float) -> None:
        if PIECES * len(areas) + piece > len(before):
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


def write(
    output: Path, described: dict[str, Any], settings: list[dict[str, Any]], journal: Journal
) -> dict[str, Any] | None:
    """The space, every trial and the winner, which is returned; only a trial that came to its end can win."""
    rows: list[dict[str, Any]] = []
    for number, setting in enumerate(settings):
        reports = journal.reports.get(key(setting), [])
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
    winner = best([row for row in rows if row["pieces"] == PIECES * len(described["seeds"])])
    for row in rows:
        shown = "stopped" if row["value"] is None else f"{row['value']:.3f}"
        print(f"{row['number'] + 1}/{len(rows)}: {shown} after {row['pieces']} pieces  {row['setting']}", flush=True)
    if strange := len(journal.reports.keys() - map(key, settings)):
        text = f"{journal.path} has {strange} settings that were not drawn this time: other versions or defaults?"
        print(text, file=sys.stderr)
    write_json(output, {**provenance(), **described, "winner": winner, "trials": rows})
    return winner
