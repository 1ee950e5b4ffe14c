"""The section of docs/results.md on the memory suite, with its figure: how much each core can remember."""

import json
import statistics
from pathlib import Path

import figures
from agent_cells import CELLS, CORES, DIFFICULTIES, SUITE_SETTING
from document import picture, table
from figures import NAMES
from fwagents.envs import reference_returns


def shares(results: Path, env: str, difficulty: int, core: str) -> list[float]:
    """Of each seed, the share of what memory is worth: 0 for the best memoryless return, 1 for the optimal one."""
    (cell,) = (cell for cell in CELLS if cell.name == f"{env}-{difficulty}-{core}")
    returns = reference_returns(env, **{DIFFICULTIES[env][0]: difficulty})
    paths = [results / "curves" / f"{cell.name}-s{seed}.json" for seed in cell.seeds]
    finals = [json.loads(path.read_text())["final"]["mean_return"] for path in paths if path.exists()]
    return [(final - returns.memoryless) / (returns.optimal - returns.memoryless) for final in finals]


def section(results: Path, folder: Path) -> str:
    """Figure and tables of what was run.

    Args:
        results: folder of the results.
        folder: of the figures.
    """
    parts, panels = [], {}
    for env, (parameter, rollouts) in DIFFICULTIES.items():
        found = {core: {n: s for n in rollouts if (s := shares(results, env, n, core))} for core in CORES}
        if not any(found.values()):
            parts.append(f"{env}: not run.")
            continue
        panels[env] = (parameter, {core: points for core, points in found.items() if points})
        rows = [
            (NAMES[core], *(", ".join(f"{share:.2f}" for share in found[core].get(n, [])) for n in rollouts))
            for core in CORES
        ]
        parts.append(f"{env}, share of each seed:")
        parts.append(table(("core", *(f"{parameter} {n}" for n in rollouts)), rows))
    if panels:
        medians = {
            env: (parameter, {c: {n: statistics.median(s) for n, s in p.items()} for c, p in found.items()})
            for env, (parameter, found) in panels.items()
        }
        figures.scaling(folder / "suite", medians, f"{SUITE_SETTING['total_timesteps']:,} steps")
        parts.insert(0, picture(folder, "suite", "Share of what memory is worth against difficulty"))
    return "\n\n".join(part for part in parts if part)
