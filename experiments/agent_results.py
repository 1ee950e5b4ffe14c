"""The runs of agents that are kept, a file for each seed of a cell in results/curves, as the reports read them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.agent_cells import CELLS, AgentCell
from experiments.jobs import had
from fwagents.envs import reference_returns
from fwagents.runs.cli import key_values
from fwagents.runs.folder import read_json

Run = dict[str, Any]


def result_path(results: Path, cell: AgentCell, seed: int) -> Path:
    """Where a run is kept."""
    return results / "curves" / f"{cell.name}-s{seed}.json"


def kept_runs(results: Path, cell: AgentCell) -> list[Run]:
    """A cell's runs, seed by seed, each with the name of its ``cell``.

    Those with other options than the cell's are left out; experiments/curves.py will run them anew.

    Raises:
        ValueError: a file is damaged.
    """
    runs = {seed: read_json(result_path(results, cell, seed)) for seed in cell.seeds}
    return [
        {**run, "cell": cell.name}
        for seed, run in runs.items()
        if run is not None and had({**cell.options, "seed": seed}, run["config"])
    ]


def share(run: Run, mean_return: float) -> float:
    """A return in an environment of ours as a share of what memory is worth there.

    Returns:
        0 for the best memoryless return, 1 for the optimal one.
    """
    config = run["config"]
    returns = reference_returns(config["env"], **key_values("env_kwargs", config["env_kwargs"]))
    return (mean_return - returns.memoryless) / (returns.optimal - returns.memoryless)


def named(name: str) -> AgentCell:
    """The cell of that name."""
    (cell,) = (cell for cell in CELLS if cell.name == name)
    return cell


def about(cells: Sequence[AgentCell], runs: Iterable[Run]) -> str:
    """How many of the cells' runs there are, what made them, and which could not go on to the end."""
    there, wanted = list(runs), sum(len(cell.seeds) for cell in cells)
    if not there:
        return f"None of {wanted} runs is there."
    commits, machines = (", ".join(sorted({str(run[key]) for run in there})) for key in ("commit", "machine"))
    stopped = Counter(run["cell"] for run in there if "stopped" in run)
    early = ", ".join(f"{name} ({count})" for name, count in stopped.items())
    return f"{len(there)} of {wanted} runs are there, at {commits}, on {machines}, one thread each." + (
        f" Stopped early, by a loss or gradient that was not finite, and as they then played: {early}." if early else ""
    )
