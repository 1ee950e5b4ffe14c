"""The memory suite: how much each core can remember, in every environment from easy to hard, at one budget.

Every core tries the same step sizes in every game.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from matplotlib import pyplot as plt

from experiments.agents import KEEPING, PLAYERS, about, kept_runs
from experiments.cell import SEEDS, Cell, Run, Setting
from experiments.document import listed, paragraphs, picture, table
from experiments.figures import NAMES, STYLES, dots, finish, save_both
from fwagents.envs import SUITE, reference_returns

# Steps of a rollout by difficulty, in each game of the memory suite (fwagents.envs.SUITE): one episode; in the maze,
# twice the shortest episode.
ROLLOUT: dict[str, Callable[[int], int]] = {
    "TMaze-v0": lambda length: 2 * (length + 1),
    "KeyValueRecall-v0": lambda pairs: 2 * pairs + 3,
    "RepeatPrevious-v0": lambda delay: delay + 16,
    "MemoryChain-v0": lambda length: length + 1,
}
# The difficulties that are run. The hardest of two games are left out: no core would learn them at this budget.
DIFFICULTIES: dict[str, tuple[int, ...]] = {
    "TMaze-v0": (5, 10, 20, 40, 80),
    "KeyValueRecall-v0": (1, 2, 4, 8),
    "RepeatPrevious-v0": (1, 2, 4, 8, 16),
    "MemoryChain-v0": (5, 10, 20, 40, 80),
}
ROLLOUTS = {env: {n: ROLLOUT[env](n) for n in difficulties} for env, difficulties in DIFFICULTIES.items()}
# The discount is 0, since no action changes later steps; only the maze has another, so that a long way is worth less.
SUITE_SETTING: Setting = {
    **{"num_envs": 64, "n_epochs": 4, "ent_coef": 0.03, "max_grad_norm": 0.5, "gamma": 0.0, "gae_lambda": 0.0},
    **{"critic_core": "shared", "vf_coef": 0.05},
    **{"total_timesteps": 300_000, "eval_freq": 0, "checkpoint_freq": 100_000},
}
# The agents' fast rate of 0.03 was found in a game without associations; the rate of 1 is from the retrieval task.
STRONG: Setting = {"decay": 0.95, "fast_lr": 1.0}
SUITE_PLAYERS = {**PLAYERS, "strong": ("fast_weights", STRONG), "rotary": ("rotary_fast_weights", {})}
SUITE_OWN: dict[str, Setting] = {"TMaze-v0": {"gamma": 0.98, "gae_lambda": 1.0}}
# The step sizes that every core tries, at which difficulties, and on which seed: the best one differs between games.
STEP_SIZES = (0.001, 0.003)
TRIED_AT: dict[str, tuple[int, ...]] = {
    "TMaze-v0": (10, 20),
    "KeyValueRecall-v0": (2, 4),
    "RepeatPrevious-v0": (2, 4),
    "MemoryChain-v0": (10, 20),
}
TRIAL_SEED = 101


def suite_cell(env: str, difficulty: int, player: str) -> Cell:
    """Return the cell of one player at one difficulty, without trials."""
    core, more = SUITE_PLAYERS[player]
    return Cell(
        group="suite",
        label=player,
        name=f"{env}-{difficulty}-{player}",
        options={
            **{"env": env, "env_kwargs": [f"{SUITE[env].parameter}={difficulty}"], "core": core},
            **{"n_steps": ROLLOUT[env](difficulty), **SUITE_SETTING, **SUITE_OWN.get(env, {})},
            **KEEPING.get(core, {}),
            **more,
        },
        seconds=25.0,
        seeds=SEEDS[:3],
    )


def suite_trials(env: str, player: str) -> tuple[Cell, ...]:
    """Return the cells of one player with every step size, at two difficulties."""
    return tuple(
        replace(
            cell,
            name=f"{cell.name}-trial-{size}",
            options={**cell.options, "learning_rate": size, "eval_freq": 75_000, "eval_episodes": 200},
            seeds=(TRIAL_SEED,),
        )
        for size in STEP_SIZES
        for cell in (suite_cell(env, difficulty, player) for difficulty in TRIED_AT[env])
    )


def memory_suite() -> list[Cell]:
    """Return a cell for every player in every environment of the suite, from easy to hard, at one budget."""
    return [
        replace(suite_cell(env, difficulty, player), trials=suite_trials(env, player))
        for env, difficulties in DIFFICULTIES.items()
        for difficulty in difficulties
        for player in SUITE_PLAYERS
    ]


CELLS: list[Cell] = memory_suite()
MAZE = "TMaze-v0"


def guessing(env: str) -> float:
    """Return the best memoryless player's share of right answers (in the maze, of right turns), at any difficulty."""
    return 0.5 if env == MAZE else (1 + reference_returns(env).memoryless) / 2


def right(run: Run) -> float:
    """Return the share of right answers at the end; in the maze, of right turns, 0 for a player that never arrives.

    Right answers sum to a return of 1, wrong ones to -1; in the maze, steps count as well.
    """
    final = run["final"]
    return float(final["success_rate"] if run["config"]["env"] == MAZE else (1 + final["mean_return"]) / 2)


def step_sizes(runs: Iterable[list[Run]]) -> str:
    """Return the step sizes that the runs trained with, as text."""
    return listed({run["config"]["learning_rate"] for run in chain.from_iterable(runs)}, "g")


def section(results: Path, folder: Path) -> str:
    """Return the figure and the tables of what was run."""
    runs = {cell.name: kept_runs(results, cell) for cell in CELLS}
    parts, panels = [about(CELLS, chain.from_iterable(runs.values()))], {}
    for env, rollouts in ROLLOUTS.items():
        parameter = SUITE[env].parameter
        there = {who: {n: kept for n in rollouts if (kept := runs[f"{env}-{n}-{who}"])} for who in SUITE_PLAYERS}
        found = {who: {n: [right(run) for run in kept] for n, kept in at.items()} for who, at in there.items() if at}
        if not found:
            parts.append(f"{env}: not run.")
            continue
        level = guessing(env)
        panels[env] = (parameter, level, found)
        rows = [
            (NAMES[who], step_sizes(there[who].values()), *(listed(points.get(n, [])) for n in rollouts))
            for who, points in found.items()
        ]
        parts.append(f"{env}, right answers of each seed ({level:g} by guessing):")
        parts.append(table(("core", "step size", *(f"{parameter} {n}" for n in rollouts)), rows))
    if panels:
        draw(folder / "suite", panels, f"{SUITE_SETTING['total_timesteps']:,} steps")
        parts.insert(1, picture(folder, "suite", "Share of right answers against difficulty"))
    return paragraphs(parts)


def draw(
    path: Path, panels: Mapping[str, tuple[str, float, Mapping[str, Mapping[int, Sequence[float]]]]], title: str
) -> None:
    """Draw right answers against difficulty: means, with every seed as a dot, and a panel for each environment.

    A panel has its parameter's name, the share that guessing reaches, and values by label and difficulty. The lines are
    shifted a little, since many lie at 1.
    """
    rows = -(-len(panels) // 2)
    size = (9, 3.2 * rows + 0.4)
    figure, grid = plt.subplots(rows, 2, figsize=size, layout="constrained", squeeze=False, sharey=True)
    handles = {}
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (env, (parameter, guessing, lines)) in zip(grid.flat[: len(panels)], panels.items(), strict=True):
        axes.axhline(guessing, color="grey", linewidth=1)
        for place, (label, points) in enumerate(lines.items()):
            name, colour, marker, line = STYLES[label]
            aside = 1 + 0.02 * (place - (len(lines) - 1) / 2)
            at = {x * aside: points[x] for x in sorted(points)}
            means = [statistics.fmean(values) for values in at.values()]
            (handles[name],) = axes.plot(list(at), means, color=colour, marker=marker, linestyle=line, label=name)
            dots(axes, at, colour)
        ticks = sorted({x for points in lines.values() for x in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(x) for x in ticks])
        axes.minorticks_off()
        axes.set_ylim(-0.04, 1.04)
        finish(axes, parameter, "right answers", env)
        axes.get_legend().remove()
    figure.suptitle(title)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize="small")
    save_both(figure, path)
