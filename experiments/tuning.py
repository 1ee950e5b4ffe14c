"""The winners of the searches of ``fwagents tune``, which the learning curves train with."""

from pathlib import Path
from typing import Any

from experiments.cell import Cell
from experiments.document import table
from fwagents.runs.folder import read_json

CELLS: list[Cell] = []  # the searches belong to other experiments' cells


def row(search: dict[str, Any]) -> tuple[str, ...]:
    """Return a search as a row of the table; the area is from the long runs, if there were any."""
    winner, finalists = search["winner"], search.get("finalists", ())
    shown = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in winner["setting"].items()
    )
    return (
        search["env"],
        search["core"],
        f"{len(search['trials'])} of {search['steps']:,}",
        f"{len(finalists)} of {search['final_steps']:,}" if finalists else "",
        ", ".join(map(str, search["seeds"])),
        f"{winner['value']:.3g}",
        f"{winner['number'] + 1}: {shown}",
    )


def section(results: Path, folder: Path) -> str:
    """Return the table of the searches that are there."""
    searches = [read_json(path) for path in sorted((results / "tuning").glob("*.json"))]
    if not searches:
        return "No search is there."
    head = ("environment", "core", "trials, steps", "long runs, steps", "seeds", "best area", "winning trial")
    rows = [row(search) for search in searches if search["winner"] is not None]
    return f"Every trial is in `results/tuning/`, with the command.\n\n{table(head, rows)}"
