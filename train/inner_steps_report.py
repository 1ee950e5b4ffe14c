"""The tables and the figure of docs/inner-steps.md: what more reads of the fast memory are worth."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import figures
from agent_cells import CELLS, GAMES, SEEDS
from agent_results import Run, about, kept_runs, named
from cells import INNER_STEPS, PER_STEP, READ_MS
from document import listed, picture, table
from runs import read_json

NORMS = {"": "one norm", "-per-step": "a norm each"}
ADAPTIVE = "adaptive"
INNER_SEEDS = SEEDS[:3]
Found = dict[tuple[Any, str], dict[int | str, list[float]]]  # by place and norm: each S, each seed's


def retrieval_runs(results: Path, size: int, steps: int | str, norm: str) -> list[Run]:
    """Those of the seeds that were run."""
    paths = sorted((results / "retrieval").glob(f"fast_weights-{size}-steps-{steps}{norm}-s?.json"))
    return [read_json(path) for path in paths]


def agents_runs(results: Path, env: str, steps: int | str, norm: str) -> list[Run]:
    """Those of the seeds that were run."""
    kept = {0: f"{env}-no_reads-memory_ppo", 1: f"{env}-fast_weights-memory_ppo"}  # of the learning curves
    cell = named(kept.get(steps, f"{env}-steps-{steps}{norm}"))
    return [run for run in kept_runs(results, cell) if run["seed"] in INNER_SEEDS]


def errors(*place: Any) -> list[float]:
    """Test errors on retrieval, percent."""
    return [run["test_error"] for run in retrieval_runs(*place)]


def areas(*place: Any) -> list[float]:
    """Areas under the learning curves."""
    return [statistics.fmean(run["mean_return"]) for run in agents_runs(*place)]


def taken(results: Path) -> str:
    """How often adaptive ones read."""
    found = {
        f"R = {n}": [run["inner_steps_taken"] for run in retrieval_runs(results, n, ADAPTIVE, "")] for n in READ_MS
    }
    found |= {e: [run["final"]["inner_steps_taken"] for run in agents_runs(results, e, ADAPTIVE, "")] for e in GAMES}
    means = "; ".join(f"{name} {listed(values)}" for name, values in found.items() if values)
    return f"Reads of a trained adaptive memory, mean over its steps, each seed: {means}." if means else ""


def section(results: Path, folder: Path) -> str:
    """Tables and figure of what was run.

    Args:
        results: folder of the results.
        folder: of the figures.
    """

    def measured(read: Callable[..., list[float]], where: Iterable[Any]) -> Found:
        return {
            (place, norm): {steps: read(results, place, steps, norm) for steps in (PER_STEP if norm else INNER_STEPS)}
            for place in where
            for norm in NORMS
        }

    retrieval, agents = measured(errors, READ_MS), measured(areas, GAMES)
    panels = {
        "test error on retrieval, %": {
            f"R = {size}, {NORMS[norm]}": found for (size, norm), found in retrieval.items()
        },
        "area under the learning curve": {f"{env}, {NORMS[norm]}": found for (env, norm), found in agents.items()},
    }
    if all(any(values for found in lines.values() for values in found.values()) for lines in panels.values()):
        figures.inner_steps(folder / "inner-steps", panels, INNER_STEPS)
    cells = [cell for cell in CELLS if cell.group == "inner-steps"]
    parts = [
        picture(folder, "inner-steps", "Test error and area against inner steps"),
        *(f"{measure}:\n\n{listing(lines)}" for measure, lines in panels.items()),
        taken(results),
        f"Agents: {about(cells, chain.from_iterable(kept_runs(results, cell) for cell in cells))}",
    ]
    return "\n\n".join(part for part in parts if part)


def listing(lines: Mapping[str, Mapping[int | str, list[float]]]) -> str:
    """A row for each S, a column for each line, each seed's value in it."""
    rows = [
        (str(steps), *((listed(found[steps]) or "not run") if steps in found else "" for found in lines.values()))
        for steps in INNER_STEPS
    ]
    return table(("S", *lines), rows)
