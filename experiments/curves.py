"""Learning curves: which core learns sooner and which plays better after equal searches (the paper's Figure 5).

The winner of a core's search on PartialCatch-v0 also plays the larger game, with a smaller step size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.agents import (
    ALGORITHMS,
    CLASSIC_A2C,
    GAMES,
    KEEPING,
    PAPER_CONSTANTS,
    PLAYERS,
    RAW,
    SEARCHES,
    SLOWER,
    UNSEARCHED,
    about,
    watched,
)
from experiments.cell import SEEDS, Cell, Setting
from experiments.document import paragraphs, picture, table
from experiments.estimates import SOLVED, Curves
from experiments.figures import NAMES, STYLES, finish, save_both
from experiments.suite import STRONG, suite_cell, suite_trials
from fwagents.comparison.estimates import Estimate, Scores, intervals, means

ALGORITHM_NAMES = {"memory_ppo": "MemoryPPO", "memory_a2c": "MemoryA2C"}


def learning_curves() -> list[Cell]:
    """Return the cells of Figure 5 for every core and both algorithms, and fast weights with the paper's constants.

    On the larger game under MemoryA2C, LSTM and GRU have the game's defaults: with the 8 environments that their
    searches chose, these ten runs alone take an hour and a half, and the defaults gave better results.
    """
    return [
        Cell(
            group="curves",
            label=label,
            name=f"{env}-{label}-{ALGORITHMS[algo]}",
            options={
                **{"env": env, "core": core, "algo": algo, **watched(steps, every)},
                **(CLASSIC_A2C if algo == "memory_a2c" else {}),
                **more,
            },
            search=search,
            rate=rate,
            seconds=seconds * (1.0 if search is None else SLOWER.get(core, 1.0)),
        )
        for env, (steps, rate, every, seconds) in GAMES.items()
        for algo in ALGORITHMS
        for label, (core, more) in {**PLAYERS, "paper_constants": ("fast_weights", PAPER_CONSTANTS)}.items()
        for search in [None if (env, algo, core) in UNSEARCHED else SEARCHES[core]]
    ]


def other_settings() -> list[Cell]:
    """Return cells with other settings, on the smaller game.

    LSTM and GRU have the defaults of train/agent.py, since the settings that their search chose are fragile, and also
    gates that begin by keeping. An IRNN begins with W = 0.5 I, as in the paper. Fast weights have one of the paper's
    constants at a time, to see whether one alone keeps them from learning.
    """
    env, (steps, _, every, seconds) = next(iter(GAMES.items()))
    return [
        Cell(
            group="curves",
            label=f"{core}_{what}",
            name=f"{env}-{core}-{what}-memory_ppo",
            options={"env": env, "core": core, "algo": "memory_ppo", **watched(steps, every), **more},
            search=search,
            seconds=1.5 * seconds,
        )
        for core, what, search, more in [
            ("lstm", "defaults", None, {}),
            ("gru", "defaults", None, {}),
            ("lstm", "keeping", None, KEEPING["lstm"]),
            ("gru", "keeping", None, KEEPING["gru"]),
            ("irnn", "half", SEARCHES["irnn"], {"core_kwargs": ["identity_scale=0.5"]}),
            ("fast_weights", "rate", SEARCHES["fast_weights"], {"fast_lr": 0.5}),
            ("fast_weights", "raw", SEARCHES["fast_weights"], {"core_kwargs": ["identity_scale=1.0", RAW]}),
            ("fast_weights", "small", SEARCHES["fast_weights"], {"core_kwargs": ["identity_scale=0.05"]}),
        ]
    ]


def weaker() -> list[Cell]:
    """Return a cell with a weaker fast memory where fast weights lose most to S = 0: is its strength the cause?"""
    env, algo = "PartialCatchLarge-v0", "memory_a2c"
    (cell,) = (cell for cell in learning_curves() if cell.name == f"{env}-fast_weights-{ALGORITHMS[algo]}")
    options = {**cell.options, "fast_lr": 0.01}
    return [
        replace(cell, label="fast_weights_weak", name=f"{env}-fast_weights-weak-{ALGORITHMS[algo]}", options=options)
    ]


# A game of associations as in the suite, but with many answers per rollout, many epochs and a small entropy bonus,
# since a large one keeps an agent guessing. The setting was chosen by hand with fast weights, on seed 101.
RECALL, RECALL_PAIRS = "KeyValueRecall-v0", 2
RECALL_SETTING: Setting = {
    **{"algo": "memory_ppo", "num_envs": 256, "n_epochs": 16, "ent_coef": 0.003},
    **watched(1_000_000, 50_000),
}
# By label: the player of the suite, and the options of its memory that differ.
RECALLING: dict[str, tuple[str, Setting]] = {
    "strong_small": ("fast_weights", {**STRONG, "core_kwargs": ["identity_scale=0.05"]}),
    "fast_weights": ("fast_weights", {}),
    "paper_constants": ("fast_weights", PAPER_CONSTANTS),
    "no_reads": ("no_reads", {}),
    "no_reads_small": ("no_reads", {"core_kwargs": ["identity_scale=0.05"]}),
    **{core: (core, {}) for core in ("lstm", "gru", "irnn", "none")},
}


def recall() -> list[Cell]:
    """Return cells that test an agent's fast memory on a game of associations, with the suite's step sizes."""
    cells = {label: suite_cell(RECALL, RECALL_PAIRS, player) for label, (player, _) in RECALLING.items()}
    return [
        replace(
            cells[label],
            group="curves",
            label=label,
            name=f"recall-{label}",
            seeds=SEEDS,
            options={**cells[label].options, **RECALL_SETTING, **more},
            seconds=150.0,
            trials=suite_trials(RECALL, player),
        )
        for label, (player, more) in RECALLING.items()
    ]


CELLS: list[Cell] = [*learning_curves(), *other_settings(), *weaker(), *recall()]


def section(results: Path, folder: Path) -> str:
    """Return the figures and tables of what was run."""
    parts: list[str] = []
    lines: dict[tuple[str, str], list[Cell]] = {}
    for cell in CELLS:
        lines.setdefault((cell.options["env"], cell.options["algo"]), []).append(cell)
    for (env, algo), cells in lines.items():
        curves, options = Curves(results, cells), cells[0].options
        title = ", ".join([env, *options.get("env_kwargs", []), ALGORITHM_NAMES[algo]])
        if not curves.runs:
            parts += [f"{title}: not run."]
            continue
        figure = f"curves-{env}-{ALGORITHMS[algo]}"
        drawn = {label: band for label, band in bands(curves).items() if label in STYLES}
        draw(folder / figure, curves.steps(), drawn, SOLVED, title)
        head = ("core", "area", f"steps to {SOLVED:g}, each seed", "final return", "P(larger area)")
        parts += [
            f"### {title}",
            f"{about(cells, curves.all())} {options['total_timesteps']:,} steps each.",
            picture(folder, figure, f"Mean return against steps, {title}"),
            table(head, rows(curves)),
        ]
    return paragraphs(parts)


def bands(curves: Curves) -> dict[str, tuple[Scores, Scores, Scores]]:
    """Return the mean, and the lower and upper end of its interval [evaluations], by label."""
    scores = {label: curves.curves(label)[:, None] for label in curves.runs}
    points, bounds = intervals(scores, lambda s: s.mean((0, 1)))
    return {label: (points[label], bounds[label][0], bounds[label][1]) for label in scores}


def larger(x: Scores, y: Scores) -> float:
    """Return the share of pairs from ``x`` and ``y`` [seeds, 1] in which x is larger; equal pairs count half.

    The result equals rliable's ``probability_of_improvement`` for one task, which takes eighty times as long.
    """
    return float(((x > y.T) + 0.5 * (x == y.T)).mean())


def improvements(curves: Curves) -> dict[str, Estimate]:
    """Return the probability that a seed of the first line, fast weights, has a larger area than each other line's."""
    others = [label for label in curves.runs if label != curves.first]
    if curves.first not in curves.runs or not others:
        return {}
    ours = curves.areas(curves.first)[:, None]
    pairs = {label: (ours, curves.areas(label)[:, None]) for label in others}
    points, bounds = intervals(pairs, lambda x, y: np.array([larger(x, y)]))
    ends = {
        k: bounds[k][:, 0].tolist() if min(len(x), len(y)) > 1 else [math.nan, math.nan] for k, (x, y) in pairs.items()
    }
    return {k: Estimate(float(points[k][0]), *ends[k]) for k in others}


def rows(curves: Curves) -> list[tuple[str, ...]]:
    """Return rows of label, area, each seed's steps to the level, final return, and fast weights' probability of a
    larger area."""
    areas = means({label: curves.areas(label) for label in curves.runs})
    finals = means({label: curves.finals(label) for label in curves.runs})
    improved = improvements(curves)
    return [
        (
            NAMES[label],
            str(areas[label]),
            ", ".join("never" if at is None else f"{at / 1000:,.0f}k" for at in curves.reached(label)),
            str(finals[label]),
            str(improved.get(label, "")),
        )
        for label in curves.runs
    ]


def draw(path: Path, steps: Sequence[int], bands: Mapping[str, tuple[Any, Any, Any]], level: float, title: str) -> None:
    """Draw mean return against environment steps, with its interval and the level to reach."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    millions = [step / 1e6 for step in steps]
    for label, (mean, low, high) in bands.items():
        name, colour, _, line = STYLES[label]
        axes.plot(millions, mean, color=colour, linestyle=line, label=name)
        axes.fill_between(millions, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(level, color="grey", linewidth=1)
    axes.set_xlim(0, millions[-1])
    finish(axes, "environment steps, millions", "mean return", title)
    axes.get_legend().remove()  # the figure has no empty corner for it
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    save_both(figure, path)
