"""The section of docs/results.md on environments that others wrote: the same agents, one setting for all cores."""

from pathlib import Path

from experiments.agent_cells import CELLS, ELSEWHERE, PLAYERS
from experiments.agent_results import Run, about
from experiments.curves_report import Curves, means
from experiments.document import table
from experiments.figures import NAMES


def section(results: Path) -> str:
    """The table of what was run.

    Args:
        results: folder of the results.
    """
    rows: list[tuple[str, ...]] = []
    runs: list[Run] = []
    for name, setting in ELSEWHERE.items():
        curves = Curves(results, [c for c in CELLS if c.group == "elsewhere" and c.options["env"] == setting["env"]])
        found = means({core: curves.finals(core) for core in curves.runs})
        runs += curves.all()
        if found:
            rows.append((name, f"{setting['total_timesteps']:,}", *(str(found.get(player, "")) for player in PLAYERS)))
    missing = [name for name in ELSEWHERE if name not in {row[0] for row in rows}]
    parts = [about([cell for cell in CELLS if cell.group == "elsewhere"], runs)]
    if rows:
        parts.append(table(("environment", "steps", *map(NAMES.get, PLAYERS)), rows))
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(parts)
