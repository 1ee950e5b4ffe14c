"""The section of docs/results.md on environments that others wrote: the same agents, one setting for all cores."""

from pathlib import Path

from agent_cells import CELLS, CORES, ELSEWHERE
from curves_report import Curves, means
from document import table
from figures import NAMES


def section(results: Path) -> str:
    """The table of what was run.

    Args:
        results: folder of the results.
    """
    rows, commits = [], set()
    for name, setting in ELSEWHERE.items():
        cells = [cell for cell in CELLS if cell.group == "elsewhere" and cell.options["env"] == setting["env"]]
        curves = Curves(results / "curves", cells)
        found = means({core: curves.finals(core) for core in curves.runs})
        steps = {run["config"]["total_timesteps"] for runs in curves.runs.values() for run in runs}
        commits |= {run["commit"] for runs in curves.runs.values() for run in runs}
        if found:
            rows.append((name, *(f"{n:,}" for n in sorted(steps)), *(str(found.get(core, "")) for core in CORES)))
    missing = [name for name in ELSEWHERE if name not in {row[0] for row in rows}]
    parts = [f"Not run: {', '.join(missing)}."] if missing else []
    if rows:
        parts = [
            f"At {', '.join(sorted(commits))}.",
            table(("environment", "steps", *map(NAMES.get, CORES)), rows),
            *parts,
        ]
    return "\n\n".join(parts)
