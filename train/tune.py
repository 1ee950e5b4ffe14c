"""Search for what trains an agent well on an environment; every core gets the same search, from what is used now.

``python train/tune.py --env PartialCatch-v0 --core lstm --trials 50 --steps 200000``

Needs Optuna: ``pip install "fwagents[tune]"``. A search that was stopped goes on when the same command is given again;
one process at a time. With ``--engine ray`` (``pip install "fwagents[ray]"``) Ray Tune runs many trials at once.
"""

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from cli import INTERRUPTED, CoreName, fail, key_values, parse
from fwagents.settings import defaults_for


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``; tried evenly in the logarithm, or only whole ones, where it says so."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


class Choice(NamedTuple):
    """One of some values."""

    values: tuple[float | str, ...]


COMMON: dict[str, Range | Choice] = {
    "learning_rate": Range(3e-4, 5e-3, log=True),
    "vf_coef": Range(0.01, 1.0, log=True),
    "ent_coef": Choice((0.0, 0.001, 0.003, 0.01, 0.03)),
    "gae_lambda": Choice((0.9, 0.95, 0.98, 1.0)),
    "critic_core": Choice(("shared", "detached", "separate", "none")),
    "max_grad_norm": Range(0.05, 1.0, log=True),
    "num_envs": Choice((8, 16, 32, 64, 128)),
}
CORES: dict[str, dict[str, Range | Choice]] = {
    "fast_weights": {
        "fast_lr": Range(0.003, 1.0, log=True),
        "decay": Range(0.8, 1.0),
        "inner_steps": Range(1, 3, whole=True),
        "identity_scale": Choice((0.05, 0.5, 1.0)),
    },
}
PIECES = 20  # of a run, for its area
BORROWED = "borrowed_from"  # in a trial, the file of the search whose winner it tries
OBJECTIVE = "mean return of the training episodes, averaged over equal pieces of the run and then over the seeds"


@dataclass
class Args:
    """Search for what trains an agent well. What is not searched is train/agent.py's default for the environment."""

    env: str = "PartialCatch-v0"
    """Any Gymnasium id; "module:Id" imports the module first."""
    core: CoreName = "fast_weights"
    """The memory."""
    algo: Literal["memory_ppo", "a2c", "recurrent_ppo"] = "memory_ppo"
    """The algorithm."""
    trials: int = 50
    """Settings to try, those of earlier calls counted in; with --engine ray the first call settles how many."""
    steps: int = 200_000
    """Environment steps of each training run."""
    seeds: tuple[int, ...] = (100, 101, 102)
    """Training runs of each setting; keep them apart from the seeds that results are reported on."""
    hidden_size: int = 128
    """Units of the memory."""
    threads: int = 1
    """Torch threads."""
    output: Path | None = None
    """Result, by default results/tuning/<env>-<core>.json; the search is kept beside it, as .sqlite3 or .ray."""
    borrow: tuple[Path, ...] = ()
    """optuna: results of other cores' searches here, whose winners are tried too, once there are enough trials: what
    they share with this core, its own options as found. Chance alone then does not keep from one what another found."""
    finalists: int = 0
    """optuna: so many of the best trials, and the one that the search began with, at last train for --final-steps, and
    the best of these wins: what is soon ahead need not stay ahead."""
    final_steps: int = 1_000_000
    """optuna: environment steps of each training run of a finalist."""
    engine: Literal["optuna", "ray"] = "optuna"
    """Optuna, a trial after the other, each learning from those before; or Ray Tune, many at once, at random and the
    poor ones cut short (ASHA)."""
    num_workers: int = 2
    """ray: trials at once."""
    address: str | None = None
    """ray: of a running cluster, or "auto" for the one that this machine is part of; None starts one here."""


def space(core: str) -> dict[str, Range | Choice]:
    """What is searched for a core."""
    return {**COMMON, **CORES.get(core, {})}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, search, write."""
    args = parse(Args, argv)
    for name in ("trials", "steps", "hidden_size", "threads", "num_workers", "final_steps"):
        if getattr(args, name) < 1:
            fail(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least 1")
    if not args.seeds:
        fail("--seeds is empty, expected at least one")
    if args.finalists < 0:
        fail(f"--finalists is {args.finalists}, expected at least 0")
    for name in ("borrow", "finalists"):
        if getattr(args, name) and args.engine == "ray":
            fail(f"--{name} has no part in a search by Ray Tune, expected --engine optuna")
    try:
        if args.engine == "ray":
            importlib.import_module("fwagents.rllib")  # without the extra it says what to install
            import ray_tuning

            ray_tuning.search(args)
            return
        try:
            import optuna
        except ImportError:
            fail('the search needs Optuna: pip install "fwagents[tune]"')
        search(args, optuna)
    except (ValueError, TypeError, AssertionError, OSError, ImportError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def result_path(args: Args) -> Path:
    """Where the result goes; its folder is made."""
    name = f"{args.env.rpartition(':')[2].replace('/', '-')}-{args.core}.json"
    output = args.output or Path("results") / "tuning" / name
    output.parent.mkdir(parents=True, exist_ok=True)
    return output


def describe(args: Args) -> dict[str, Any]:
    """What makes two searches the same."""
    settings = {name: getattr(args, name) for name in ("env", "core", "algo", "steps", "hidden_size")}
    return {**settings, "seeds": list(args.seeds), "space": described_space(args.core), "objective": OBJECTIVE}


def search(args: Args, optuna: Any) -> None:
    """Try settings until there are ``args.trials``, writing the result after each.

    Raises:
        ValueError: the search that is to go on had other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what stops the search is said below, in one line
    output, described = result_path(args), describe(args)
    study = optuna.create_study(
        study_name="search",
        storage=f"sqlite:///{output.with_suffix('.sqlite3')}",
        direction="maximize",
        load_if_exists=True,
    )
    check_same(study.user_attrs, described, output.with_suffix(".sqlite3"))
    for key, value in described.items():
        study.set_user_attr(key, value)
    states = optuna.trial.TrialState
    over = (states.COMPLETE, states.PRUNED)
    for trial in study.get_trials(states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)  # it was killed half-way

    def want(setting: dict[str, Any], **attributes: Any) -> None:
        """Try it next, unless it was tried or waits."""
        for trial in study.get_trials(states=(*over, states.WAITING)):
            if setting.items() <= {**trial.params, **trial.system_attrs.get("fixed_params", {})}.items():
                return
        study.enqueue_trial(setting, user_attrs=attributes)

    # A sampler that began with the same seed again would draw again what it has drawn.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), multivariate=True)

    def objective(trial: Any) -> float:
        setting = {name: suggest(trial, name, part) for name, part in space(args.core).items()}
        try:
            areas = [train(args, setting, seed) for seed in args.seeds]
        except FloatingPointError as error:
            trial.set_user_attr("stopped", str(error))
            raise optuna.TrialPruned from error
        trial.set_user_attr("areas", areas)
        return fmean(areas)

    def tried() -> list[Any]:
        return list(study.get_trials(states=over))

    def own() -> list[Any]:
        return [trial for trial in tried() if BORROWED not in trial.user_attrs]

    def try_one(count: int) -> None:
        study.optimize(objective, n_trials=1)
        last = max(tried(), key=lambda trial: trial.datetime_complete)
        value = "stopped" if last.value is None else f"{last.value:.3f}"
        print(f"{len(tried())}/{count}: {value}, best {best_value(tried())}  {last.params}", flush=True)
        write(output, described, rows(tried()))

    want(known_setting(args))
    while len(own()) < args.trials:
        try_one(args.trials)
    found = best(own())
    for path in args.borrow:
        want({**(found.params if found else {}), **lent(path, args.env)}, **{BORROWED: path.name})
    while waiting := study.get_trials(states=(states.WAITING,)):
        try_one(len(tried()) + len(waiting))
    described["borrowed"] = [path.name for path in args.borrow]
    described |= {"finalists_wanted": args.finalists, "final_steps": args.final_steps}
    final: list[dict[str, Any]] = []
    kept = study.user_attrs.get(f"finals of {args.final_steps:,} steps", {})
    for row in finalists(rows(tried()), args.finalists):
        number = str(row["number"])
        if number not in kept:
            kept[number] = last_test(args, row["setting"])
            study.set_user_attr(f"finals of {args.final_steps:,} steps", kept)
            print(f"trial {row['number'] + 1}, {args.final_steps:,} steps: {kept[number]['value']}", flush=True)
        final.append({**row, **kept[number]})
        write(output, described, rows(tried()), final)
    write(output, {**described, "over": True}, rows(tried()), final)


def finalists(trials: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The best ``count`` trials, and the first, which is what was used before; none if ``count`` is 0."""
    whole = [row for row in trials if row["value"] is not None]
    best = sorted(whole, key=lambda row: row["value"], reverse=True)[:count]
    return [*best, *(row for row in whole[:1] if best and row not in best)]


def last_test(args: Args, setting: dict[str, Any]) -> dict[str, Any]:
    """How a setting does in long runs; a run that had to be stopped makes the value None."""
    began = time.monotonic()
    try:
        areas = [train(replace(args, steps=args.final_steps), setting, seed) for seed in args.seeds]
    except FloatingPointError as error:
        return {"value": None, "stopped": str(error)}
    return {"value": fmean(areas), "areas": areas, "seconds": time.monotonic() - began}


def lent(path: Path, env: str) -> dict[str, Any]:
    """What the winner of another core's search shares with every core; what it borrowed itself does not count.

    Raises:
        ValueError: it is not such a search's result, or of another environment.
    """
    from runs import read_json

    kept = read_json(path)
    if kept is None or kept.get("env") != env:
        raise ValueError(f"--borrow has {path}, expected the result of a finished search on {env}")
    whole = [row for row in kept["trials"] if row["value"] is not None and BORROWED not in row]
    winner = max(whole, key=lambda row: row["value"])["setting"] if whole else {}
    return {name: value for name, value in winner.items() if name in COMMON}


def check_same(known: dict[str, Any], described: dict[str, Any], kept: Path) -> None:
    """ValueError unless the search that is to go on is the same one."""
    for key, value in described.items():
        if key in known and known[key] != value:
            raise ValueError(
                f"{kept} holds a search with {key} {known[key]!r}, expected {value!r}: "
                "give another --output, or remove it"
            )


def described_space(core: str) -> dict[str, Any]:
    """The space as JSON."""
    return {
        name: {k: list(v) if k == "values" else v for k, v in part._asdict().items()}
        for name, part in space(core).items()
    }


def suggest(trial: Any, name: str, part: Range | Choice) -> Any:
    """The trial's value for one part of the space."""
    if isinstance(part, Choice):
        return trial.suggest_categorical(name, part.values)
    if part.whole:
        return trial.suggest_int(name, int(part.low), int(part.high), log=part.log)
    return trial.suggest_float(name, part.low, part.high, log=part.log)


def known_setting(args: Args) -> dict[str, Any]:
    """What is used now, as far as it lies in the space: the search is to beat it."""
    from inspect import signature

    from agent import Args as AgentArgs
    from fwagents.cores import CORES as CLASSES
    from fwagents.sb3 import AGENT_CORE_KWARGS

    defaults = defaults_for(args.env, args.core)
    known = {**vars(AgentArgs()), **defaults}
    known |= {name: option.default for name, option in signature(CLASSES[args.core]).parameters.items()}
    known |= AGENT_CORE_KWARGS.get(args.core, {})
    known |= key_values("core_kwargs", defaults.get("core_kwargs", ()))
    return {
        name: known[name]
        for name, part in space(args.core).items()
        if (known[name] in part.values if isinstance(part, Choice) else part.low <= known[name] <= part.high)
    }


def train(args: Args, setting: dict[str, Any], seed: int, report: Callable[[float], None] | None = None) -> float:
    """Train once; the area under the curve of returns, which is also reported after every piece of the run."""
    from agent import Args as AgentArgs
    from training import Run

    own = {name: value for name, value in setting.items() if name in CORES.get(args.core, {})}
    options = {**defaults_for(args.env, args.core), **{name: setting[name] for name in COMMON}}
    options |= {"env": args.env, "core": args.core, "algo": args.algo, "seed": seed, "threads": args.threads}
    options |= {"total_timesteps": args.steps, "hidden_size": args.hidden_size}
    model = Run(AgentArgs(**options), {}, own).model
    steps: list[int] = []
    returns: list[float] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        for info in local["infos"]:
            if "episode" in info:
                steps.append(model.num_timesteps)
                returns.append(float(info["episode"]["r"]))
        done = min(model.num_timesteps * PIECES // args.steps, PIECES)
        if report is not None and returns:
            for piece in range(len(reported) + 1, done + 1):
                reported.append(piece)
                report(area(steps, returns, model.num_timesteps, piece))
        return True

    reported: list[int] = []
    model.learn(args.steps, callback=note)
    return area(steps, returns, args.steps)


def area(steps: Sequence[int], returns: Sequence[float], total: int, pieces: int = PIECES) -> float:
    """The mean return of each piece of the run, averaged; a piece where no episode ended lies between its neighbours.

    Raises:
        ValueError: no episode ended at all.
    """
    import numpy as np

    if not returns:
        raise ValueError(f"no episode ended in {total} steps: give more --steps")
    piece = np.minimum(np.asarray(steps) * pieces // (total + 1), pieces - 1)
    count = np.bincount(piece, minlength=pieces)
    some = np.flatnonzero(count)
    means = np.bincount(piece, np.asarray(returns), pieces)[some] / count[some]
    return float(np.interp(np.arange(pieces), some, means).mean())


def best(trials: list[Any]) -> Any:
    """The trial of the highest value; None if there is none."""
    return max((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value, default=None)


def best_value(trials: list[Any]) -> str:
    """The highest value so far."""
    found = best(trials)
    return "none" if found is None else f"{found.value:.3f}"


def rows(trials: list[Any]) -> list[dict[str, Any]]:
    """Trials as they are written down."""
    return [
        {
            "number": trial.number,
            "value": trial.value,
            **trial.user_attrs,
            "setting": trial.params,
            "seconds": trial.duration and trial.duration.total_seconds(),
        }
        for trial in trials
    ]


def write(
    output: Path, described: dict[str, Any], trials: list[dict[str, Any]], final: Sequence[dict[str, Any]] = ()
) -> None:
    """The space, every trial, every finalist and the winner, whole or not at all."""
    from runs import provenance, write_json

    whole = [row for row in final or trials if row["value"] is not None]
    winner = max(whole, key=lambda row: row["value"]) if whole else None
    finals = {"finalists": list(final)} if final else {}
    write_json(output, {**provenance(), **described, "winner": winner, **finals, "trials": trials})


if __name__ == "__main__":
    main()
