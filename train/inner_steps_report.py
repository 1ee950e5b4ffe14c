"""The tables and the figure of docs/inner-steps.md: what more reads of the fast memory are worth."""

import json
import statistics
from pathlib import Path

import figures
from agent_cells import CELLS as AGENT_CELLS
from agent_cells import GAMES
from cells import INNER_STEPS, PER_STEP, READ_MS
from document import picture, table

NORMS = {"": "one norm", "-per-step": "a norm each"}


def errors(results: Path, size: int, steps: int | str, norm: str) -> list[float]:
    """Test errors on retrieval, percent, of the seeds that were run."""
    paths = sorted((results / "retrieval").glob(f"fast_weights-{size}-steps-{steps}{norm}-s?.json"))
    return [json.loads(path.read_text())["test_error"] for path in paths]


def areas(results: Path, env: str, steps: int | str) -> list[float]:
    """Areas under the learning curves of the seeds that were run."""
    (cell,) = (cell for cell in AGENT_CELLS if cell.name == f"{env}-steps-{steps}")
    paths = [results / "curves" / f"{cell.name}-s{seed}.json" for seed in cell.seeds]
    return [statistics.fmean(json.loads(path.read_text())["mean_return"]) for path in paths if path.exists()]


def listed(values: list[float]) -> str:
    """Each seed's, to two decimals."""
    return ", ".join(f"{value:.2f}" for value in values) or "not run"


def section(results: Path, folder: Path) -> str:
    """Tables and figure of what was run.

    Args:
        results: folder of the results.
        folder: of the figures.
    """
    retrieval = {
        (size, norm): {steps: errors(results, size, steps, norm) for steps in (INNER_STEPS if norm == "" else PER_STEP)}
        for size in READ_MS
        for norm in NORMS
    }
    agents = {env: {steps: areas(results, env, steps) for steps in INNER_STEPS} for env in GAMES}
    rows = [
        (
            str(steps),
            *("" if steps not in found else listed(found[steps]) for found in retrieval.values()),
            *(listed(found[steps]) for found in agents.values()),
        )
        for steps in INNER_STEPS
    ]
    head = (
        "S",
        *(f"retrieval, R = {size}, {NORMS[norm]}: test error, %" for size, norm in retrieval),
        *(f"{env}: area" for env in agents),
    )
    panels = {
        "test error on retrieval, %": {f"R = {s}, {NORMS[n]}": found for (s, n), found in retrieval.items()},
        "area under the learning curve": agents,
    }
    if any(values for lines in panels.values() for found in lines.values() for values in found.values()):
        figures.inner_steps(folder / "inner-steps", panels, INNER_STEPS)
    parts = [table(head, rows), picture(folder, "inner-steps", "Test error and area against inner steps")]
    return "\n\n".join(part for part in parts if part)
