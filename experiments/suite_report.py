"""The section of docs/results.md on the memory suite, with its figure: how much each core can remember."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from experiments import figures
from experiments.agent_cells import CELLS, ROLLOUTS, SUITE_PLAYERS, SUITE_SETTING
from experiments.agent_results import Run, about, kept_runs
from experiments.document import listed, picture, table
from experiments.figures import NAMES
from fwagents.envs import SUITE, reference_returns

MAZE = "TMaze-v0"


def guessing(env: str) -> float:
    """Right answers of the best without memory, at any difficulty; in the maze, where steps count too, right turns."""
    return 0.5 if env == MAZE else (1 + reference_returns(env).memoryless) / 2


def right(run: Run) -> float:
    """Share of right answers at the end; in the maze, of right turns, which are 0 for who never arrives.

    A return is a share of 1 for right answers and -1 for wrong ones, but in the maze, where steps count as well.
    """
    final = run["final"]
    return float(final["success_rate"] if run["config"]["env"] == MAZE else (1 + final["mean_return"]) / 2)


def step_sizes(runs: Iterable[list[Run]]) -> str:
    """What they trained with, which is one of those that were tried."""
    return listed({run["config"]["learning_rate"] for run in chain.from_iterable(runs)}, "g")


def section(results: Path, folder: Path) -> str:
    """Figure and tables of what was run.

    Args:
        results: folder of the results.
        folder: of the figures.
    """
    cells = [cell for cell in CELLS if cell.group == "suite"]
    runs = {cell.name: kept_runs(results, cell) for cell in cells}
    parts, panels = [about(cells, chain.from_iterable(runs.values()))], {}
    for env, rollouts in ROLLOUTS.items():
        parameter = SUITE[env].parameter
        there = {who: {n: kept for n in rollouts if (kept := runs[f"{env}-{n}-{who}"])} for who in SUITE_PLAYERS}
        found = {who: {n: [right(run) for run in kept] for n, kept in at.items()} for who, at in there.items() if at}
        if not found:
            parts.append(f"{env}: not run.")
            continue
        level = guessing(env)
        panels[env] = (parameter, level, found)
        rows = [
            (NAMES[who], step_sizes(there[who].values()), *(listed(points.get(n, [])) for n in rollouts))
            for who, points in found.items()
        ]
        parts.append(f"{env}, right answers of each seed ({level:g} by guessing):")
        parts.append(table(("core", "step size", *(f"{parameter} {n}" for n in rollouts)), rows))
    if panels:
        figures.scaling(folder / "suite", panels, f"{SUITE_SETTING['total_timesteps']:,} steps")
        parts.insert(1, picture(folder, "suite", "Share of right answers against difficulty"))
    return "\n\n".join(part for part in parts if part)
