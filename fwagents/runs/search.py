"""Search for settings that train an agent well. Every core's search is the same and begins with its current settings.

``fwagents tune --env PartialCatch-v0 --core lstm --trials 50 --total-timesteps 200000``

Needs Optuna: ``pip install "fwagents[tune]"``. The same command resumes a search that was stopped. The same command on
several machines that share the folder is one search.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fwagents.registry import CoreName
from fwagents.runs.folder import read_json
from fwagents.runs.options import Count, CountOrNone, OutputFile, Seed, Threads, Units
from fwagents.settings import AGENT_CORE, defaults_for


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``: with ``log`` drawn evenly in the logarithm, with ``whole`` only integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


class Choice(NamedTuple):
    """A setting that is drawn from a fixed set of values."""

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
PIECES = 20  # equal pieces of a run, over which its area is averaged
BORROWED = "borrowed_from"  # a trial's attribute: the result file of the search whose winner it tries
OBJECTIVE = "mean return of the training episodes, averaged over equal pieces of the run and then over the seeds"


@dataclass
class Args:
    """Search for settings that train an agent well. All other settings are fwagents agent's for the environment."""

    env: str = "PartialCatch-v0"
    """Any Gymnasium id; "module:Id" imports the module first."""
    core: CoreName = AGENT_CORE
    """Memory core."""
    algo: Literal["memory_ppo", "memory_a2c", "recurrent_ppo"] = "memory_ppo"
    """The algorithm."""
    trials: Count = 50
    """Number of settings to try, including the settings of earlier calls."""
    total_timesteps: Count = 200_000
    """Environment steps of each training run."""
    seeds: tuple[Seed, ...] = (100, 101, 102)
    """Seeds of each setting's training runs; do not report results on these seeds."""
    hidden_size: Units = 128
    """Units of the memory."""
    observe: tuple[Literal["action", "reward"], ...] = ()
    """Parts of the last step that are added to each observation, as for fwagents agent."""
    mask_actions: bool = False
    """Take legal actions only, as for fwagents agent."""
    threads: Threads = 1
    """Torch threads of each worker."""
    num_workers: Threads = 1
    """Number of processes on this machine that work on the search, each on one trial. The same command on other
    machines that share the folder adds more processes."""
    output: OutputFile | None = None
    """Result file, by default runs/tuning/<env>-<core>.json; the search is kept beside it, as .journal."""
    borrow: tuple[Path, ...] = ()
    """Results of other cores' searches on this environment. After --trials settings, each winner is tried on this core
    too: with the winner's common options, and this core's own options from its best trial so far. A setting that
    another search found by chance is thus tried here too."""
    finalists: CountOrNone = 0
    """Retrain the best N trials, and the starting settings, for --final-steps, and pick the winner from those runs.
    Settings that lead early often do not lead at the end."""
    final_steps: Count = 1_000_000
    """Environment steps of each training run of a finalist."""
    pruner: Literal["none", "halving"] = "none"
    """none trains every setting to its end; halving (successive halving) compares the settings several times during
    their runs and continues only the best third each time."""


def space(core: str) -> dict[str, Range | Choice]:
    """Return the space that is searched for a core."""
    return {**COMMON, **CORES.get(core, {})}


def check_core(args: Args) -> None:
    """Raise ValueError if the core cannot have ``args.hidden_size`` units."""
    import torch

    from fwagents.cores import make_core

    with torch.device("meta"):  # no memory is taken
        make_core(args.core, 1, args.hidden_size)


def result_path(args: Args) -> Path:
    """Return the path of the result."""
    name = f"{args.env.rpartition(':')[2].replace('/', '-')}-{args.core}.json"
    return args.output or Path("runs") / "tuning" / name


def describe(args: Args) -> dict[str, Any]:
    """Return the options that two searches must share to be the same."""
    searched = {"env": args.env, "core": args.core, "algo": args.algo, "steps": args.total_timesteps}
    agent = {"hidden_size": args.hidden_size, "observe": list(args.observe), "seeds": list(args.seeds)}
    masks = {"mask_actions": True} if args.mask_actions else {}  # results of searches without masks do not name them
    return {
        **searched,
        **agent,
        **masks,
        "pruner": args.pruner,
        "space": described_space(args.core),
        "objective": OBJECTIVE,
    }


def check_same(known: dict[str, Any], described: dict[str, Any], kept: Path) -> None:
    """Raise ValueError unless the stored search is the search that is described."""
    for key, value in described.items():
        if key in known and known[key] != value:
            raise ValueError(
                f"{kept} holds a search with {key} {known[key]!r}, expected {value!r}: "
                "give another --output, or remove it"
            )


def check_output(output: Path, described: dict[str, Any], search: Path) -> None:
    """Raise ValueError if the result would replace a file that is not an earlier result of the same search.

    Args:
        output: path of the result.
        described: the options that two searches must share to be the same.
        search: the journal that holds the search.
    """
    if not output.exists():
        return
    kept = read_json(output)
    if not isinstance(kept, dict) or not described.keys() <= {*kept, "pruner"}:
        raise ValueError(f"{output} is not the result of such a search: give another --output")
    check_same({"pruner": "none", **kept}, described, output)  # the first searches had no choice of a pruner
    if not search.exists():
        raise ValueError(f"{output} is of a search whose {search.name} is gone: give another --output, or remove it")


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the trial with the highest value; None if no trial has a value."""
    return max((row for row in rows if row["value"] is not None), key=lambda row: row["value"], default=None)


def described_space(core: str) -> dict[str, Any]:
    """Return the space as JSON."""
    return {
        name: {k: list(v) if k == "values" else v for k, v in part._asdict().items()}
        for name, part in space(core).items()
    }


def known_settings(args: Args) -> list[dict[str, Any]]:
    """Return the current settings, as far as they lie in the space, for the search to beat.

    If the environment has settings for this core, the environment's common settings are a second starting point, since
    the other cores begin with them.
    """
    from inspect import signature

    from fwagents.cores import CORES as CLASSES
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.sb3 import AGENT_CORE_KWARGS

    settings: list[dict[str, Any]] = []
    for core in (args.core, ""):
        defaults = defaults_for(args.env, core)
        known = {**vars(AgentArgs()), **defaults}
        known |= {name: option.default for name, option in signature(CLASSES[args.core]).parameters.items()}
        known |= AGENT_CORE_KWARGS.get(args.core, {})
        known |= defaults.get("core_kwargs", {})
        setting = {
            name: known[name]
            for name, part in space(args.core).items()
            if (known[name] in part.values if isinstance(part, Choice) else part.low <= known[name] <= part.high)
        }
        if setting not in settings:
            settings.append(setting)
    return settings[: args.trials]


def train(args: Args, setting: dict[str, Any], seed: int, report: Callable[[int, float], None] | None = None) -> float:
    """Train once and return the area under the curve of returns; also report it after every piece (1, 2, ...)."""
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.agent import options_for
    from fwagents.runs.run import Run

    own = {name: value for name, value in setting.items() if name in CORES.get(args.core, {})}
    options = {**options_for(args.env, args.core), **{name: setting[name] for name in COMMON}}
    options |= {"env": args.env, "core": args.core, "algo": args.algo, "seed": seed, "threads": args.threads}
    options |= {"total_timesteps": args.total_timesteps, "hidden_size": args.hidden_size, "observe": args.observe}
    options["mask_actions"] = args.mask_actions
    model = Run(AgentArgs(**options), {}, own).model
    steps: list[int] = []
    returns: list[float] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        for info in local["infos"]:
            if "episode" in info:
                steps.append(model.num_timesteps)
                returns.append(float(info["episode"]["r"]))
        done = min(model.num_timesteps * PIECES // args.total_timesteps, PIECES)
        if report is not None and returns:
            for piece in range(len(reported) + 1, done + 1):
                reported.append(piece)
                report(piece, area(steps, returns, model.num_timesteps, piece))
        return True

    reported: list[int] = []
    model.learn(args.total_timesteps, callback=note)
    return area(steps, returns, args.total_timesteps)


def area(steps: Sequence[int], returns: Sequence[float], total: int, pieces: int = PIECES) -> float:
    """Average the mean return over equal pieces of the run. A piece in which no episode ended is interpolated.

    Raises:
        ValueError: no episode ended at all.
    """
    import numpy as np

    if not returns:
        raise ValueError(f"no episode ended in {total} steps: give more --total-timesteps")
    piece = np.minimum(np.asarray(steps) * pieces // (total + 1), pieces - 1)
    count = np.bincount(piece, minlength=pieces)
    some = np.flatnonzero(count)
    means = np.bincount(piece, np.asarray(returns), pieces)[some] / count[some]
    return float(np.interp(np.arange(pieces), some, means).mean())
