"""The section of docs/results.md on the memory suite, with its figure: how much each core can remember."""

import statistics
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import figures
from agent_cells import CELLS, ROLLOUTS, SUITE_PLAYERS, SUITE_SETTING
from agent_results import Run, about, kept_runs, share
from document import listed, picture, table
from figures import NAMES
from fwagents.envs import SUITE


def played(runs: list[Run]) -> list[float]:
    """How well each run plays at the end."""
    return [share(run, run["final"]["mean_return"]) for run in runs]


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
        found = {who: {n: played(kept) for n, kept in at.items()} for who, at in there.items() if at}
        if not found:
            parts.append(f"{env}: not run.")
            continue
        panels[env] = (parameter, found)
        rows = [
            (NAMES[who], step_sizes(there[who].values()), *(listed(points.get(n, [])) for n in rollouts))
            for who, points in found.items()
        ]
        parts.append(f"{env}, share of each seed:")
        parts.append(table(("core", "step size", *(f"{parameter} {n}" for n in rollouts)), rows))
    if panels:
        medians = {
            env: (parameter, {c: {n: statistics.median(s) for n, s in p.items()} for c, p in found.items()})
            for env, (parameter, found) in panels.items()
        }
        figures.scaling(folder / "suite", medians, f"{SUITE_SETTING['total_timesteps']:,} steps")
        parts.insert(1, picture(folder, "suite", "Share of what memory is worth against difficulty"))
    return "\n\n".join(part for part in parts if part)
