"""The number of inner steps: the effect of more reads of the fast memory, on retrieval and in an agent."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from experiments import curves
from experiments.agents import GAMES, SEARCHES, about, kept_runs, watched
from experiments.cell import SEEDS, Cell, Grid, Run, Times
from experiments.document import listed, paragraphs, picture, table
from experiments.figures import INKS, STYLES, dots, finish, save_both
from experiments.retrieval import NAMED
from experiments.settling import told_apart
from experiments.supervised import cell
from fwagents.runs.folder import read_json

PAGE = "inner-steps.md"
# Reads of the fast memory per time step. READ_MS: milliseconds of each read at R = 20 and 50.
INNER_STEPS = (0, 1, 2, 3, 5, 8, "adaptive")
PER_STEP = (2, 3, 5, 8)  # numbers of reads that are also run with a layer norm for each
READ_MS = {20: 0.6, 50: 1.2}
INNER_UPDATES = {20: 12_000, 50: 8_000}
ADAPTIVE_MS = 5  # reads that an adaptive memory's time is estimated by
INNER_FACTORS = (1.0, 0.5, 0.25)


def retrieval_cells() -> list[Cell]:
    """Return the retrieval cells. Their settings were found for one step, except how much of h is stored.

    More reads multiply the effect of the fast rate, and |h|^2 scales A so much that its read dominates the input: so
    rates are tried with h as it is and normalised.
    """
    cells = []
    for size, steps in product(READ_MS, INNER_STEPS):
        norms: list[list[str]] = [[], ["norm_per_step=True"]] if steps in PER_STEP else [[]]
        for own in norms:
            normalised = {"core_kwargs": [*own, "normalize_storage=True"]}
            stored = tuple({"fast_lr": Times(f), **storage} for storage in ({}, normalised) for f in INNER_FACTORS)
            cells.append(
                cell(
                    "inner-steps",
                    str(steps),
                    f"fast_weights-{size}-steps-{steps}{'-per-step' if own else ''}",
                    "retrieval",
                    {
                        **{"core": "fast_weights", "hidden_size": size, "inner_steps": steps},
                        **({"core_kwargs": own} if own else {}),
                    },
                    INNER_UPDATES[size],
                    1.0 + READ_MS[size] * (ADAPTIVE_MS if steps == "adaptive" else int(steps)),
                    Grid((stored,) if steps else (), INNER_UPDATES[size] // 2, {}, of=NAMED[f"fast_weights-{size}"]),
                )
            )
    return cells


def agent_cells() -> list[Cell]:
    """Return the cells that vary an agent's inner steps; the other settings were found by the search with one step."""
    return [
        Cell(
            group="inner-steps",
            label=str(steps),
            name=f"{env}-steps-{steps}{'-per-step' if per_step else ''}",
            options={
                **{"env": env, "core": "fast_weights", "algo": "memory_ppo", "inner_steps": steps},
                # These options replace the search's own, so its initial W is repeated.
                **({"core_kwargs": ["identity_scale=1.0", "norm_per_step=True"]} if per_step else {}),
                **watched(total, every),
            },
            search=SEARCHES["fast_weights"],
            rate=rate,
            seconds=1.3 * seconds,
            seeds=SEEDS[:3],
        )
        for env, (total, rate, every, seconds) in GAMES.items()
        for per_step in (False, True)
        for steps in (PER_STEP if per_step else INNER_STEPS)
        if steps not in (0, 1)  # the learning curves have these
    ]


AGENTS = agent_cells()
CELLS: list[Cell] = [*retrieval_cells(), *AGENTS]
NORMS = {"": "one norm", "-per-step": "a norm each"}
ADAPTIVE = "adaptive"
INNER_SEEDS = SEEDS[:3]
Found = dict[str, dict[int | str, list[Any]]]  # by place and norm: a value of each seed for each S


def retrieval_runs(results: Path, size: int, steps: int | str, norm: str) -> list[Run]:
    """The runs of the seeds that are there."""
    paths = sorted((results / "retrieval").glob(f"fast_weights-{size}-steps-{steps}{norm}-s?.json"))
    return [read_json(path) for path in paths]


def agents_runs(results: Path, env: str, steps: int | str, norm: str) -> list[Run]:
    """The runs of the seeds that are there."""
    kept = {0: f"{env}-no_reads-memory_ppo", 1: f"{env}-fast_weights-memory_ppo"}  # of the learning curves
    name = kept.get(steps, f"{env}-steps-{steps}{norm}")
    (cell,) = (cell for cell in (*curves.CELLS, *AGENTS) if cell.name == name)
    return [run for run in kept_runs(results, cell) if run["seed"] in INNER_SEEDS]


def errors(*place: Any) -> list[float]:
    """Return test errors on retrieval, in percent."""
    return [run["test_error"] for run in retrieval_runs(*place)]


def rates(results: Path, size: int, steps: int | str, norm: str) -> list[str]:
    """Return the fast rates, each with the form in which h is stored."""
    cores = [run["core_kwargs"] for run in retrieval_runs(results, size, steps, norm)]
    if steps == 0:
        return ["nothing stored"] * len(cores)
    return [f"{core['fast_lr']:g}{', h normalised' if core.get('normalize_storage') else ''}" for core in cores]


def areas(*place: Any) -> list[float]:
    """Return the areas under the learning curves."""
    return [statistics.fmean(run["mean_return"]) for run in agents_runs(*place)]


def taken(results: Path) -> str:
    """Say how many reads adaptive memories take."""
    found = {
        f"R = {n}": [run["inner_steps_taken"] for run in retrieval_runs(results, n, ADAPTIVE, "")] for n in READ_MS
    }
    found |= {e: [run["final"]["inner_steps_taken"] for run in agents_runs(results, e, ADAPTIVE, "")] for e in GAMES}
    means = "; ".join(f"{name} {listed(values)}" for name, values in found.items() if values)
    return f"Reads of a trained adaptive memory, mean over its steps, each seed: {means}." if means else ""


def section(results: Path, folder: Path) -> str:
    """Return the tables and the figure of what was run."""

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
        draw(folder / "inner-steps", panels, INNER_STEPS)
    parts = [
        picture(folder, "inner-steps", "Test error and area against inner steps"),
        *(f"{measure}:\n\n{listing(lines, listed)}" for measure, lines in panels.items()),
        f"fast rate on retrieval, as the searches chose it:\n\n{listing(measured(rates, sizes), one_of_each)}",
        taken(results),
        f"how far apart the keys are in the state before training, % of its length, at a fast rate of 1:\n\n{apart()}",
        f"Agents: {about(AGENTS, chain.from_iterable(kept_runs(results, cell) for cell in AGENTS))}",
    ]
    return paragraphs(parts)


def apart() -> str:
    """Return a table of the distances between the states of different keys after S reads."""
    columns = [(size, normalised) for size in READ_MS for normalised in (False, True)]
    head = [f"R = {size}, h {'normalised' if normalised else 'as it is'}" for size, normalised in columns]
    numbers = [steps for steps in INNER_STEPS if isinstance(steps, int)]
    return table(
        ("S", *head), [(str(s), *(f"{100 * told_apart(size, s, 1.0, n):.2f}" for size, n in columns)) for s in numbers]
    )


def one_of_each(values: Iterable[str]) -> str:
    """Return the distinct values as text, since seeds of a cell share a setting."""
    return "; ".join(dict.fromkeys(values))


def listing(lines: Found, show: Callable[[list[Any]], str]) -> str:
    """Return a table with a row for each S and a column for each line."""
    rows = [
        (str(steps), *((show(found[steps]) or "not run") if steps in found else "" for found in lines.values()))
        for steps in INNER_STEPS
    ]
    return table(("S", *lines), rows)


def draw(
    path: Path, panels: Mapping[str, Mapping[str, Mapping[int | str, Sequence[float]]]], order: Sequence[int | str]
) -> None:
    """Draw medians against inner steps, with every seed as a dot: a panel for each measure, a line for each setting.

    An adaptive memory has no fixed number of steps and is drawn apart from the line.
    """
    figure, row = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    looks = [style[1:] for style in STYLES.values() if style[1] not in INKS]
    for axes, (measure, lines) in zip(row, panels.items(), strict=True):
        for (name, found), (colour, marker, line) in zip(lines.items(), looks, strict=False):
            at = {place: found[steps] for place, steps in enumerate(order) if found.get(steps)}
            numbers = {place: values for place, values in at.items() if isinstance(order[place], int)}
            for places, joined, label in ((numbers, line, name), (at.keys() - numbers, "", None)):
                medians = [statistics.median(at[place]) for place in places]
                axes.plot(list(places), medians, color=colour, marker=marker, linestyle=joined, label=label)
            dots(axes, at, colour)
        axes.set_xticks(range(len(order)), [str(steps) for steps in order])
        finish(axes, "inner steps S", measure, "")
        # There is no empty corner.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize="small")
    save_both(figure, path)
