"""The common part of experiments with agents: players, budgets of the games, and functions that read results.

Every core has the same search on PartialCatch-v0, with seeds that are reported nowhere.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from experiments.cell import Cell, Run, Search, Setting
from fwagents.envs import reference_returns
from fwagents.runs.cli import key_values

CORES = ("fast_weights", "lstm", "gru", "irnn", "none")
ALGORITHMS = {"memory_ppo": "memory_ppo", "memory_a2c": "a2c"}  # and their names in file names
# A gate's bias makes a core keep its state, as W = I does in an IRNN: a bias of 3 keeps 95 % per step.
KEEPING: dict[str, Setting] = {
    "lstm": {"core_kwargs": ["forget_bias=3.0"]},
    "gru": {"core_kwargs": ["update_bias=3.0"]},
    "irnn": {"core_kwargs": ["identity_scale=1.0"]},
}
# The players, by the label of their line: a core and its options.
PLAYERS: dict[str, tuple[str, Setting]] = {
    "fast_weights": ("fast_weights", {}),
    # Without its memory the cell is a layer-normalised RNN, so the difference is the memory's worth.
    "no_reads": ("fast_weights", {"inner_steps": 0, "core_kwargs": ["identity_scale=1.0"]}),
    "lstm": ("lstm", {}),
    "gru": ("gru", {}),
    # W = I, as for fast weights, whose search could choose it. The IRNN's search had W = 0.5 I.
    "irnn": ("irnn", KEEPING["irnn"]),
    "none": ("none", {}),
}

# Steps of a run, factor on the step size, steps between evaluations, seconds of a run.
GAMES = {
    "PartialCatch-v0": (1_500_000, 1.0, 50_000, 50.0),
    "PartialCatchLarge-v0": (4_000_000, 0.7, 200_000, 110.0),
}
# A run's time as a multiple of the above, with the small number of environments that the search chose.
SLOWER = {"lstm": 5.0, "gru": 4.5, "none": 2.0}
UNSEARCHED = [
    ("PartialCatchLarge-v0", "memory_a2c", core) for core in ("lstm", "gru")
]  # these have the game's defaults
SEARCHES = {core: Search("PartialCatch-v0", core, cores=CORES) for core in CORES}
RAW = "normalize_storage=False"
# Ba et al. (2016), section 2 and appendix A.
PAPER_CONSTANTS: Setting = {
    "decay": 0.95,
    "fast_lr": 0.5,
    "core_kwargs": [RAW, "identity_scale=0.05"],
}
# A2C in its usual form: with Adam and normalised advantages it would equal the search's winner, MemoryPPO of one epoch.
CLASSIC_A2C: Setting = {"use_rms_prop": True, "normalize_advantage": False}


def watched(steps: int, every: int) -> Setting:
    """Return the options of a run of ``steps`` steps with an evaluation every ``every`` steps."""
    return {"total_timesteps": steps, "eval_freq": every, "eval_episodes": 200, "checkpoint_freq": steps // 10}


def kept_runs(results: Path, cell: Cell) -> list[Run]:
    """Return a cell's runs, seed by seed, each with its name as ``cell``; runs with other options are left out.

    Raises:
        ValueError: a file is damaged.
    """
    runs = (cell.kept(results, seed) for seed in cell.seeds)
    return [{**run, "cell": cell.name} for run in runs if run is not None]


def share(run: Run, mean_return: float) -> float:
    """Return a mean return in one of our environments as a share of the gain from memory.

    Returns:
        0 for the best memoryless return, 1 for the optimal one.
    """
    config = run["config"]
    returns = reference_returns(config["env"], **key_values("env_kwargs", config["env_kwargs"]))
    return (mean_return - returns.memoryless) / (returns.optimal - returns.memoryless)


def best_step_size(results: Path, trials: Sequence[Cell]) -> float | None:
    """Return the step size with the highest curves, the smaller of two equal ones; None while a trial is missing.

    A curve counts as its share of the gain from memory, so that all difficulties have the same weight. A negative share
    counts as 0, since it does not matter how badly an untrained agent plays.
    """
    shares: dict[float, list[float]] = {}
    for trial in trials:
        runs = kept_runs(results, trial)
        if len(runs) < len(trial.seeds):
            return None
        values = [max(0.0, share(run, value)) for run in runs for value in run["mean_return"]]
        shares.setdefault(trial.options["learning_rate"], []).append(fmean(values))
    return max(sorted(shares), key=lambda size: fmean(shares[size]))


def about(cells: Sequence[Cell], runs: Iterable[Run]) -> str:
    """Say how many of the cells' runs exist, at which commits, on which machines, and which of them stopped early."""
    there, wanted = list(runs), sum(len(cell.seeds) for cell in cells)
    if not there:
        return f"None of {wanted} runs is there."
    commits, machines = (", ".join(sorted({str(run[key]) for run in there})) for key in ("commit", "machine"))
    stopped = Counter(run["cell"] for run in there if "stopped" in run)
    early = ", ".join(f"{name} ({count})" for name, count in stopped.items())
    return f"{len(there)} of {wanted} runs are there, at {commits}, on {machines}, one thread each." + (
        f" Stopped early, by a loss or gradient that was not finite, and as they then played: {early}." if early else ""
    )
