"""The section of docs/results.md on the memory suite, with its figure: how much each core can remember."""

import statistics
from itertools import chain
from pathlib import Path

import figures
from agent_cells import CELLS, PLAYERS, ROLLOUTS, SUITE_SETTING
from agent_results import Run, about, best_step_size, kept_runs, share
from document import picture, table
from figures import NAMES
from fwagents.envs import SUITE


def played(runs: list[Run]) -> list[float]:
    """How well each run plays at the end."""
    return [share(run, run["final"]["mean_return"]) for run in runs]


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
        found: dict[str, dict[int, list[float]]] = {
            player: {n: played(there) for n in rollouts if (there := runs[f"{env}-{n}-{player}"])} for player in PLAYERS
        }
        if not any(found.values()):
            parts.append(f"{env}: not run.")
            continue
        panels[env] = (parameter, {core: points for core, points in found.items() if points})
        sizes = {cell.label: best_step_size(results, cell) for cell in cells if cell.options["env"] == env}
        rows = [
            (NAMES[who], sizes[who] or "", *(", ".join(f"{x:.2f}" for x in found[who].get(n, [])) for n in rollouts))
            for who in PLAYERS
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
