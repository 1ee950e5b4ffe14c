"""Rotary fast weights: whether an agent's default memory meets its targets, and the effect of each of its parts.

The targets were set before the runs, from trial runs on other seeds. Every row has the core with its default options;
the step size wins the memory suite's trials, or is the environment's own setting. The ablations leave out one part at a
time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from experiments.agents import about, kept_runs, watched
from experiments.cell import SEEDS, Cell, Run, Setting
from experiments.document import listed, table
from experiments.elsewhere import ELSEWHERE
from experiments.estimates import SOLVED, reached
from experiments.suite import right, suite_cell, suite_trials
from fwagents.envs import SUITE
from fwagents.settings import defaults_for

CORE = "rotary_fast_weights"
ABLATION_SEEDS = SEEDS[:3]


@dataclass(frozen=True)
class Target:
    """One row of the table of targets.

    Attributes:
        what: the row's name.
        wanted: the target, in words.
        others: other cores' results, in words.
        cell: the cell that is measured.
        value: function that returns a run's number, or None if the run never reached the level.
        met: function that tells whether the numbers of all seeds meet the target.
    """

    what: str
    wanted: str
    others: str
    cell: Cell
    value: Callable[[Run], float | None]
    met: Callable[[list[float | None]], bool]


def final(run: Run) -> float:
    """Return the mean return of the final evaluation."""
    return float(run["final"]["mean_return"])


def middle(values: list[float | None]) -> float:
    """Return the median, with None, for never, later than any step."""
    return median(float("inf") if value is None else value for value in values)


def by_steps(limit: float) -> Callable[[list[float | None]], bool]:
    """Return a test of whether the median number of steps is at most ``limit``."""
    return lambda values: middle(values) <= limit


def at_least(level: float, seeds: int | None = None) -> Callable[[list[float | None]], bool]:
    """Return a test of whether the median reaches ``level``, or, with ``seeds``, whether that many seeds do."""
    if seeds is None:
        return lambda values: middle(values) >= level
    return lambda values: sum(value is not None and value >= level for value in values) >= seeds


def cell(name: str, options: Setting, seconds: float) -> Cell:
    """Return a cell of the targets; it names all settings, so that runs with other settings do not count."""
    own = {} if options["env"] in SUITE else defaults_for(options["env"], CORE)
    every = {"core": CORE, "checkpoint_freq": 100_000, "final_episodes": 1000, "eval_freq": 0}
    return Cell("rotary", "rotary", f"rotary-{name}", {**own, **every, **options}, seconds=seconds, seeds=SEEDS)


# The memory suite's minibatch is the whole rollout. In the long mazes that gives only two hundred updates, in which an
# agent just learns to walk. Minibatches as long as eight episodes give eight times as many. Found on seed 102.
MINIBATCHES = {"TMaze-v0": 8}


def of_suite(env: str, difficulty: int, steps: int, seconds: float) -> Cell:
    """Return a cell of a game in the memory suite, with the step size that its trials choose."""
    options = {**suite_cell(env, difficulty, "rotary").options, "total_timesteps": steps, "final_episodes": 1000}
    if env in MINIBATCHES:
        options["batch_size"] = MINIBATCHES[env] * options["n_steps"]
    return replace(cell(f"{env}-{difficulty}", options, seconds), trials=suite_trials(env, "rotary"))


# Cells that more than one row uses.
CATCH = cell("catch", {"env": "PartialCatch-v0", **watched(1_000_000, 20_000)}, 90.0)
PAIRS = of_suite("KeyValueRecall-v0", 4, 300_000, 60.0)
DELAY = of_suite("RepeatPrevious-v0", 16, 300_000, 60.0)
# Long episodes in few environments: a thousand of them would take longer than the training.
_LONG: Setting = {"final_episodes": 200}
POLE = cell("cart-pole", {"env": "CartPoleNoVel-v1", "total_timesteps": 50_000, **_LONG}, 60.0)

# The settings at which other cores solve RepeatPrevious: every step is an answer, and no action affects later ones.
_CARDS: Setting = {"gamma": 0.0, "gae_lambda": 0.0, "learning_rate": 3e-3, "ent_coef": 0.03, "total_timesteps": 200_000}
_PREVIOUS: Setting = {**ELSEWHERE["POPGym RepeatPrevious Easy"], **_CARDS}
_FIRST: Setting = {**ELSEWHERE["POPGym RepeatFirst Easy"], **_CARDS}
_STEPS = f"steps to {SOLVED:g}, median"
TARGETS: tuple[Target, ...] = (
    Target(
        f"PartialCatch-v0, {_STEPS}",
        "400,000",
        "fast weights 800,000; S = 0 about 550,000; LSTM 1,300,000",
        CATCH,
        reached,
        by_steps(400_000),
    ),
    Target(
        "PartialCatch-v0, return after 1,000,000 steps",
        "0.95 on 5 of 5",
        "fast weights 0.95 after 3,000,000",
        CATCH,
        final,
        at_least(0.95, 5),
    ),
    Target(
        f"PartialCatchLarge-v0, {_STEPS}",
        "1,500,000",
        "fast weights 3,000,000; LSTM never",
        cell("large", {"env": "PartialCatchLarge-v0", **watched(1_600_000, 100_000)}, 300.0),
        reached,
        by_steps(1_500_000),
    ),
    Target(
        "KeyValueRecall-v0, 4 pairs, 300,000 steps, right answers",
        "0.90",
        "0.34",
        PAIRS,
        right,
        at_least(0.90),
    ),
    Target(
        "KeyValueRecall-v0, 8 pairs, 600,000 steps, right answers",
        "0.85",
        "0.20 after 300,000",
        of_suite("KeyValueRecall-v0", 8, 600_000, 120.0),
        right,
        at_least(0.85),
    ),
    Target(
        "RepeatPrevious-v0, delay 16, 300,000 steps, right answers",
        "0.95",
        "0.41",
        DELAY,
        right,
        at_least(0.95),
    ),
    Target(
        "RepeatPrevious-v0, delay 32, 600,000 steps, right answers",
        "0.85",
        "not run",
        of_suite("RepeatPrevious-v0", 32, 600_000, 120.0),
        right,
        at_least(0.85),
    ),
    Target(
        "MemoryChain-v0, length 80, 300,000 steps, right answers",
        "1.00",
        "1.00",
        of_suite("MemoryChain-v0", 80, 300_000, 60.0),
        right,
        at_least(0.995),
    ),
    Target(
        "TMaze-v0, length 40, 300,000 steps, return",
        "4.0, the most there is, on 5 of 5",
        "2.3",
        of_suite("TMaze-v0", 40, 300_000, 60.0),
        final,
        at_least(3.99, 5),
    ),
    Target(
        "TMaze-v0, length 80, 300,000 steps, return",
        "4.0 on 3 of 5",
        "a guess",
        of_suite("TMaze-v0", 80, 300_000, 60.0),
        final,
        at_least(3.99, 3),
    ),
    Target(
        "POPGym RepeatPreviousEasy, 200,000 steps, return",
        "0.98",
        "1.00 (LSTM, GRU, delta nets); fast weights 0.06",
        cell("RepeatPreviousEasy", _PREVIOUS, 60.0),
        final,
        at_least(0.98),
    ),
    Target(
        "POPGym RepeatFirstEasy, 200,000 steps, return",
        "1.00",
        "1.00 (fast weights, delta nets); LSTM, GRU -0.56",
        cell("RepeatFirstEasy", _FIRST, 60.0),
        final,
        at_least(0.995),
    ),
    Target(
        "CartPoleNoVel-v1, 50,000 steps, return",
        "495",
        "500 (LSTM, GRU)",
        POLE,
        final,
        at_least(495.0),
    ),
    Target(
        "PendulumNoVel-v1, 200,000 steps, return",
        "-205",
        "-205",
        cell("pendulum", {**ELSEWHERE["Pendulum-v1 without velocity"], **_LONG}, 150.0),
        final,
        at_least(-205.0),
    ),
)

# By label: the part that is left out, and the options that do so. Without its memory the core is a layer on the present
# input, as the core "none" is.
PARTS: dict[str, tuple[str, Setting]] = {
    "whole": ("nothing", {}),
    "unread": ("the memory", {"core": "none"}),
    "timeless": ("the time code", {"core_kwargs": ["rotary=none"]}),
    "timed": ("heads without the time code", {"core_kwargs": ["rotary=all"]}),
    "one_head": ("all heads but one", {"core_kwargs": ["num_heads=1", "rotary=all"]}),
    "ungated": ("the output gate", {"core_kwargs": ["output_gate=False"]}),
    "adding": ("the delta rule", {"core_kwargs": ["delta_rule=False"]}),
    "undecayed": ("the decay", {"core_kwargs": ["gate_bias=30.0"]}),
    "unconvolved": ("the convolution", {"core_kwargs": ["conv_size=1"]}),
    "uninduced": ("the beginning as an induction head", {"core_kwargs": ["induction=False"]}),
}
ABLATED: dict[str, tuple[Cell, Callable[[Run], float]]] = {
    "KeyValueRecall, 4 pairs": (PAIRS, right),
    "RepeatPrevious, delay 16": (DELAY, right),
    "PartialCatch": (
        replace(
            cell("catch-short", {"env": "PartialCatch-v0", "total_timesteps": 500_000}, 50.0), seeds=ABLATION_SEEDS
        ),
        final,
    ),
    "CartPoleNoVel": (POLE, final),
}


def without(label: str, whole: Cell) -> Cell:
    """Return the cell with a part left out and its settings kept; the cell itself if nothing is left out."""
    _, options = PARTS[label]
    if not options:
        return whole
    kept = replace(whole, group="ablation", label=label, name=f"{whole.name}-{label}", seeds=ABLATION_SEEDS)
    return replace(kept, options={**whole.options, **options})


_ABLATIONS = [without(label, whole) for label in PARTS for whole, _ in ABLATED.values()]
CELLS = list({each.name: each for each in (*(target.cell for target in TARGETS), *_ABLATIONS)}.values())


def shown(value: float | None) -> str:
    """Return a number of a run as the table shows it."""
    if value is None:
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def section(results: Path, folder: Path) -> str:
    """Return the tables of what was run."""
    kept = {each.name: kept_runs(results, each) for each in CELLS}
    parts = [about(CELLS, (run for runs in kept.values() for run in runs))]
    rows = [_row(target, kept[target.cell.name]) for target in TARGETS]
    parts.append(table(("where", "target", "other cores", "each seed", "met"), rows))
    parts.append("What each part is for: the core without it, each seed.")
    parts.append(table(("without", *ABLATED), [_ablation(label, results) for label in PARTS]))
    return "\n\n".join(parts)


def _row(target: Target, runs: Sequence[Run]) -> tuple[str, ...]:
    values = [target.value(run) for run in runs]
    whole = len(values) == len(target.cell.seeds)
    verdict = ("yes" if target.met(values) else "no") if whole else "not run" if not values else "runs are missing"
    return target.what, target.wanted, target.others, ", ".join(map(shown, values)), verdict


def _ablation(label: str, results: Path) -> tuple[str, ...]:
    found = [
        listed([value(run) for run in runs], ".0f" if "Cart" in name else ".2f")
        for name, (whole, value) in ABLATED.items()
        for runs in [kept_runs(results, replace(without(label, whole), seeds=ABLATION_SEEDS))]
    ]
    return PARTS[label][0], *found
