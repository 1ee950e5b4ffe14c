"""Search for what trains an agent well on an environment; every core gets the same search, from what is used now.

``fwagents tune --env PartialCatch-v0 --core lstm --trials 50 --total-timesteps 200000``

Needs Optuna: ``pip install "fwagents[tune]"``. A search that was stopped goes on when the same command is given again.
The same command on several machines that share the folder is one search.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fwagents.runs.cli import CoreName
from fwagents.runs.folder import read_json
from fwagents.runs.options import Count, CountOrNone, OutputFile, Seed, Threads, Units
from fwagents.settings import AGENT_CORE, defaults_for


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
    """Search for what trains an agent well. What is not searched is fwagents agent's default for the environment."""

    env: str = "PartialCatch-v0"
    """Any Gymnasium id; "module:Id" imports the module first."""
    core: CoreName = AGENT_CORE
    """The memory."""
    algo: Literal["memory_ppo", "memory_a2c", "recurrent_ppo"] = "memory_ppo"
    """The algorithm."""
    trials: Count = 50
    """Settings to try, those of earlier calls counted in."""
    total_timesteps: Count = 200_000
    """Environment steps of each training run."""
    seeds: tuple[Seed, ...] = (100, 101, 102)
    """Training runs of each setting; keep them apart from the seeds that results are reported on."""
    hidden_size: Units = 128
    """Units of the memory."""
    observe: tuple[Literal["action", "reward"], ...] = ()
    """Parts of its last step that the agent is told, as for fwagents agent."""
    threads: Threads = 1
    """Torch threads of each worker."""
    num_workers: Threads = 1
    """Processes of this machine that work on the search, a trial each. The same command on other machines that share
    the folder adds theirs."""
    output: OutputFile | None = None
    """Result, by default runs/tuning/<env>-<core>.json; the search is kept beside it, as .journal."""
    borrow: tuple[Path, ...] = ()
    """Results of other cores' searches here, whose winners are tried too, once there are enough trials: what they share
    with this core, its own options as found. Chance alone then does not keep from one what another found."""
    finalists: CountOrNone = 0
    """So many of the best trials, and what the search began with, at last train for --final-steps, and the best of
    these wins: what is soon ahead need not stay ahead."""
    final_steps: Count = 1_000_000
    """Environment steps of each training run of a finalist."""
    pruner: Literal["none", "halving"] = "none"
    """none trains every setting to its end; halving (successive halving) compares the settings in the course of their
    runs, and each time goes on with the best third."""


def space(core: str) -> dict[str, Range | Choice]:
    """Return the space that is searched for a core."""
    return {**COMMON, **CORES.get(core, {})}


def check_core(args: Args) -> None:
    """ValueError if the core cannot have ``args.hidden_size`` units."""
    import torch

    from fwagents.cores import make_core

    with torch.device("meta"):  # no memory is taken
        make_core(args.core, 1, args.hidden_size)


def result_path(args: Args) -> Path:
    """Where the result goes."""
    name = f"{args.env.rpartition(':')[2].replace('/', '-')}-{args.core}.json"
    return args.output or Path("runs") / "tuning" / name


def describe(args: Args) -> dict[str, Any]:
    """Return the options that two searches must share to be the same."""
    searched = {"env": args.env, "core": args.core, "algo": args.algo, "steps": args.total_timesteps}
    agent = {"hidden_size": args.hidden_size, "observe": list(args.observe), "seeds": list(args.seeds)}
    return {**searched, **agent, "pruner": args.pruner, "space": described_space(args.core), "objective": OBJECTIVE}


def check_same(known: dict[str, Any], described: dict[str, Any], kept: Path) -> None:
    """ValueError unless the search that is to go on is the same one."""
    for key, value in described.items():
        if key in known and known[key] != value:
            raise ValueError(
                f"{kept} holds a search with {key} {known[key]!r}, expected {value!r}: "
                "give another --output, or remove it"
            )


def check_output(output: Path, described: dict[str, Any], search: Path) -> None:
    """ValueError if writing the result would replace anything but an earlier result of the search that is to go on.

    Args:
        output: where the result goes.
        described: what makes two searches the same.
        search: what the search is kept in.
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
    """The trial of the highest value; None if none has a value."""
    return max((row for row in rows if row["value"] is not None), key=lambda row: row["value"], default=None)


def described_space(core: str) -> dict[str, Any]:
    """The space as JSON."""
    return {
        name: {k: list(v) if k == "values" else v for k, v in part._asdict().items()}
        for name, part in space(core).items()
    }


def known_settings(args: Args) -> list[dict[str, Any]]:
    """Return the settings in use now, as far as they lie in the space: the search is to beat them.

    For a core with defaults of its own it adds the environment's settings, with which the other cores begin.
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
    """Train once; the area under the curve of returns, reported also after every piece (1, 2, ...) of the run."""
    from fwagents.runs.agent import Args as AgentArgs
    from fwagents.runs.agent import options_for
    from fwagents.runs.run import Run

    own = {name: value for name, value in setting.items() if name in CORES.get(args.core, {})}
    options = {**options_for(args.env, args.core), **{name: setting[name] for name in COMMON}}
    options |= {"env": args.env, "core": args.core, "algo": args.algo, "seed": seed, "threads": args.threads}
    options |= {"total_timesteps": args.total_timesteps, "hidden_size": args.hidden_size, "observe": args.observe}
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
    """The mean return of each piece of the run, averaged; a piece where no episode ended lies between its neighbours.

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
