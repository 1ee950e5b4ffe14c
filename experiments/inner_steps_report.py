"""The tables and the figure of docs/inner-steps.md: what more reads of the fast memory are worth."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from experiments import figures
from experiments.agent_cells import CELLS, GAMES, SEEDS
from experiments.agent_results import Run, about, kept_runs, named
from experiments.cells import INNER_STEPS, PER_STEP, READ_MS
from experiments.document import listed, picture, table
from experiments.settling import told_apart
from fwagents.runs.folder import read_json

NORMS = {"": "one norm", "-per-step": "a norm each"}
ADAPTIVE = "adaptive"
INNER_SEEDS = SEEDS[:3]
Found = dict[str, dict[int | str, list[Any]]]  # by place and norm: each S, each seed's


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


def rates(results: Path, size: int, steps: int | str, norm: str) -> list[str]:
    """Fast rates, each with how h is stored."""
    cores = [run["core_kwargs"] for run in retrieval_runs(results, size, steps, norm)]
    if steps == 0:
        return ["nothing stored"] * len(cores)
    return [f"{core['fast_lr']:g}{', h normalised' if core.get('normalize_storage') else ''}" for core in cores]


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

    def measured(read: Callable[..., list[Any]], where: Mapping[Any, str]) -> Found:
        return {
            f"{name}, {NORMS[norm]}": {
                steps: read(results, place, steps, norm) for steps in (PER_STEP if norm else INNER_STEPS)
            }
            for place, name in where.items()
            for norm in NORMS
        }

    sizes = {size: f"R = {size}" for size in READ_MS}
    panels = {
        "test error on retrieval, %": measured(errors, sizes),
        "area under the learning curve": measured(areas, {env: env for env in GAMES}),
    }
    if all(any(values for found in lines.values() for values in found.values()) for lines in panels.values()):
        figures.inner_steps(folder / "inner-steps", panels, INNER_STEPS)
    cells = [cell for cell in CELLS if cell.group == "inner-steps"]
    parts = [
        picture(folder, "inner-steps", "Test error and area against inner steps"),
        *(f"{measure}:\n\n{listing(lines, listed)}" for measure, lines in panels.items()),
        f"fast rate on retrieval, as the searches chose it:\n\n{listing(measured(rates, sizes), one_of_each)}",
        taken(results),
        f"how far apart the keys are in the state before training, % of its length, at a fast rate of 1:\n\n{apart()}",
        f"Agents: {about(cells, chain.from_iterable(kept_runs(results, cell) for cell in cells))}",
    ]
    return "\n\n".join(part for part in parts if part)


def apart() -> str:
    """What is left, after S reads, of the key that is asked for."""
    columns = [(size, normalised) for size in READ_MS for normalised in (False, True)]
    head = [f"R = {size}, h {'normalised' if normalised else 'as it is'}" for size, normalised in columns]
    numbers = [steps for steps in INNER_STEPS if isinstance(steps, int)]
    return table(
        ("S", *head), [(str(s), *(f"{100 * told_apart(size, s, 1.0, n):.2f}" for size, n in columns)) for s in numbers]
    )


def one_of_each(values: Iterable[str]) -> str:
    """Seeds of a cell share a setting."""
    return "; ".join(dict.fromkeys(values))


def listing(lines: Found, show: Callable[[list[Any]], str]) -> str:
    """A row for each S, a column for each line."""
    rows = [
        (str(steps), *((show(found[steps]) or "not run") if steps in found else "" for found in lines.values()))
        for steps in INNER_STEPS
    ]
    return table(("S", *lines), rows)
