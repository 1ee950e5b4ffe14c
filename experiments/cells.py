"""The cells of the tables in docs/results.md, as data: what is trained, how long, and what is searched before.

Every cell of a table gets the same search on validation, with seeds that are reported nowhere: learning rates far
apart, those beside the best, then the other schedule. Fast weights and the IRNN have constants of their own, which a
last stage tries.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

SEARCH_SEED = 100
SEEDS = (0, 1, 2)
Setting = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """In a stage: so many times the best value so far."""

    factor: float


Stage = tuple[Setting, ...]


def search(first: str, second: str) -> tuple[Stage, ...]:
    """Learning rates far apart with one schedule, those beside the best, then the other schedule.

    No constant rate is among them: trials are shorter than the runs that they choose for, and it flatters them.
    """
    return (
        tuple({"learning_rate": rate, "lr_schedule": first} for rate in (5e-4, 2e-3, 8e-3)),
        ({"learning_rate": Times(0.5)}, {"learning_rate": Times(2.0)}),
        ({"lr_schedule": second},),
    )


def applied(choice: Setting, best: Setting) -> Setting:
    """The best setting so far with a stage's choice on top."""
    values = {name: value.factor * best[name] if isinstance(value, Times) else value for name, value in choice.items()}
    return {**best, **values}


@dataclass(frozen=True)
class Cell:
    """One model of one size on one task.

    Attributes:
        table: the table that it stands in.
        name: of its files.
        script: ``train/<script>.py``.
        options: of that script: what makes it this cell.
        updates: budget of each reported run.
        ms: milliseconds that an update takes, before a run has measured it.
        start: what the search starts from.
        stages: what it tries, stage after stage, each on top of the best so far.
        search_updates: budget of each trial.
        search_seeds: of the trials; a setting is tried with each.
        settings_of: name of the cell whose best setting this one's search starts from, if any.
        seeds: of the reported runs.
        measure: what of their results is reported.
    """

    table: str
    name: str
    script: str
    options: Setting
    updates: int
    ms: float
    start: Setting = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    search_updates: int = 15_000
    search_seeds: tuple[int, ...] = (SEARCH_SEED,)
    settings_of: str | None = None
    seeds: tuple[int, ...] = SEEDS
    measure: str = "test_error"


# Small nets that begin with large steps may never find the way.
RETRIEVAL_SEARCH = search("warmup", "cosine")
# Decay 0.9 and rate 0.5 are the paper's for this task (appendix A).
RETRIEVAL_START: Setting = {"decay": 0.95, "fast_lr": 1.0}
RETRIEVAL_MEMORY: Stage = tuple(
    {"decay": decay, "fast_lr": rate} for decay, rate in [(0.9, 0.5), (0.9, 1.0), (0.95, 0.5)]
)
# The paper's 0.5 I (section 4) leaves the IRNN at remembering two pairs of four for far longer than the identity does.
RETRIEVAL_IRNN_START: Setting = {"core_kwargs": ["identity_scale=1.0"]}
RETRIEVAL_IRNN: Stage = ({"core_kwargs": ["identity_scale=0.5"]},)
# Where a core's search begins, and what it tries last.
Own = tuple[Setting, tuple[Stage, ...]]
NOTHING: Own = ({}, ())
RETRIEVAL_OWN: dict[str, Own] = {
    "fast_weights": (RETRIEVAL_START, (RETRIEVAL_MEMORY,)),
    "irnn": (RETRIEVAL_IRNN_START, (RETRIEVAL_IRNN,)),
}
# Milliseconds an update at R = 10, 20, 50 and 100, strings of 11 characters, on one of two busy cores.
RETRIEVAL_MS = {
    "fast_weights": (1.3, 1.4, 2.1, 4.5),
    "irnn": (1.5, 1.9, 2.1, 3.8),
    "lstm": (1.6, 2.0, 3.6, 9.2),
    "associative_lstm": (3.8, 5.1, 11.0, 23.0),
}
# Updates and seeds of the trials at each size; small nets leave the plateau later, one seed long before another (of 10
# units, none does).
RETRIEVAL_TRIALS = {10: (30_000, (100,)), 20: (30_000, (100, 101)), 50: (15_000, (100,)), 100: (10_000, (100,))}
IRNN_TRIAL = 30_000  # updates: it leaves the plateau later still
RETRIEVAL_UPDATES, HARDER_UPDATES = 100_000, 20_000
# An update of the associative LSTM takes three to five times as long as one of fast weights or of the IRNN, so its
# trials and runs have this share of the updates.
SHARES = {"associative_lstm": 0.4}
SIZES = tuple(RETRIEVAL_TRIALS)
PAIRS = (8, 16, 26)  # beside the 4 of Table 1


def share_of(core: str, updates: int) -> int:
    """So many updates, or what a slow core gets of them."""
    return round(SHARES.get(core, 1.0) * updates)


def retrieval_cells() -> list[Cell]:
    """Table 1, with a column for R = 10; its runs at R = 50 are those of Figure 2."""
    return [
        Cell(
            table="retrieval",
            name=f"{core}-{size}",
            script="retrieval",
            options={"core": core, "hidden_size": size, **({"test_curve": True} if size == 50 else {})},
            updates=share_of(core, RETRIEVAL_UPDATES),
            ms=ms,
            start=RETRIEVAL_OWN.get(core, NOTHING)[0],
            stages=(*RETRIEVAL_SEARCH, *RETRIEVAL_OWN.get(core, NOTHING)[1]),
            search_updates=IRNN_TRIAL if core == "irnn" else share_of(core, RETRIEVAL_TRIALS[size][0]),
            search_seeds=RETRIEVAL_TRIALS[size][1],
        )
        for core, times in RETRIEVAL_MS.items()
        for size, ms in zip(SIZES, times, strict=True)
    ]


def harder_cells() -> list[Cell]:
    """More pairs at R = 50. Learning rates are those found for four pairs; fast weights search their decay anew."""
    return [
        Cell(
            table="harder",
            name=f"{core}-50-k{pairs}",
            script="retrieval",
            options={"core": core, "hidden_size": 50, "pairs": pairs},
            updates=share_of(core, HARDER_UPDATES),
            ms=times[2] * (2 * pairs + 3) / 11,
            stages=(tuple({"decay": d} for d in (0.9, 0.95, 0.98, 1.0)),) if core == "fast_weights" else (),
            search_updates=HARDER_UPDATES // 2,
            settings_of=f"{core}-50",
        )
        for core, times in RETRIEVAL_MS.items()
        for pairs in PAIRS
    ]


# Reads of the fast memory, and milliseconds that one more takes at R = 20 and 50.
INNER_STEPS = (0, 1, 2, 3, 5, 8, "adaptive")
PER_STEP = (2, 3, 5, 8)  # those that may have a layer norm for each step
READ_MS = {20: 0.6, 50: 1.2}
INNER_UPDATES = {20: 12_000, 50: 8_000}
ADAPTIVE_MS = 5  # times as many
INNER_FACTORS = (1.0, 0.5, 0.25)


def inner_step_cells() -> list[Cell]:
    """How many inner steps: settings are those found for one step, but for how much of h is stored.

    More reads multiply the fast rate, and with |h|^2 in it A drowns what asks: so rates are tried with h as it is and
    normalised.
    """
    cells = []
    for size, steps in product(READ_MS, INNER_STEPS):
        norms: list[list[str]] = [[], ["norm_per_step=True"]] if steps in PER_STEP else [[]]
        for own in norms:
            normalised = {"core_kwargs": [*own, "normalize_storage=True"]}
            stored = tuple({"fast_lr": Times(f), **storage} for storage in ({}, normalised) for f in INNER_FACTORS)
            cell = Cell(
                table="inner-steps",
                name=f"fast_weights-{size}-steps-{steps}{'-per-step' if own else ''}",
                script="retrieval",
                options={
                    **{"core": "fast_weights", "hidden_size": size, "inner_steps": steps},
                    **({"core_kwargs": own} if own else {}),
                },
                updates=INNER_UPDATES[size],
                ms=1.0 + READ_MS[size] * (ADAPTIVE_MS if steps == "adaptive" else int(steps)),
                stages=(stored,) if steps else (),
                search_updates=INNER_UPDATES[size] // 2,
                settings_of=f"fast_weights-{size}",
            )
            cells.append(cell)
    return cells


GLIMPSES_SEARCH = search("cosine", "linear")
# The paper's constants. Milliseconds an update at 50, 100 and 200 features, on one of two busy cores.
GLIMPSES_START: Setting = {"decay": 0.95, "fast_lr": 0.5}
GLIMPSES_MEMORY: Stage = tuple(
    {"decay": decay, "fast_lr": rate} for decay, rate in [(0.9, 0.5), (0.95, 0.25), (0.95, 1.0)]
)
GLIMPSES_OWN: dict[str, Own] = {
    "fast_weights": (GLIMPSES_START, (GLIMPSES_MEMORY,)),
    "multilevel": (GLIMPSES_START, (GLIMPSES_MEMORY,)),
    "irnn": ({}, (({"core_kwargs": ["identity_scale=1.0"]},),)),
}
GLIMPSES_MS = {
    "irnn": (3.2, 5.7, 14.0),
    "lstm": (6.4, 12.0, 37.0),
    "gru": (9.7, 16.0, 41.0),
    "convnet": (3.3, 7.0, 18.0),
    "fast_weights": (4.5, 6.6, 14.0),
    "multilevel": (4.8, 7.6, 15.0),
}
FEATURES = (50, 100, 200)
EPOCH = 430  # updates


def glimpses_cells() -> list[Cell]:
    """Table 2, with a GRU, and with fast weights both plain and as the paper wired them (multilevel)."""
    return [
        Cell(
            table="glimpses",
            name=f"mnist-{label}-{features}",
            script="glimpses",
            options={
                **({"model": label} if label in ("convnet", "multilevel") else {"core": label}),
                "hidden_size": features,
            },
            updates=30 * EPOCH,
            ms=ms,
            start=GLIMPSES_OWN.get(label, NOTHING)[0],
            stages=(*GLIMPSES_SEARCH, *GLIMPSES_OWN.get(label, NOTHING)[1]),
            search_updates=6 * EPOCH,
        )
        for label, times in GLIMPSES_MS.items()
        for features, ms in zip(FEATURES, times, strict=True)
    ]


# Milliseconds an update, 32 rows of 64 characters, on one core. The paper's rate does not learn with so many units; see
# fwagents/settings.py.
LANGUAGE_MS = {"fast_weights": 90.0, "lstm": 26.0, "gru": 56.0}
LANGUAGE_PARAMETERS = 250_000
LANGUAGE_START: Setting = {"decay": 0.95, "fast_lr": 0.03}
LANGUAGE_MEMORY: Stage = tuple(
    {"decay": decay, "fast_lr": rate} for decay, rate in [(0.95, 0.01), (0.95, 0.1), (0.99, 0.03)]
)


def language_cells() -> list[Cell]:
    """Characters of a text, at equal parameters. Seven passes through it; a trial is a fifth of a run."""
    rates = search("cosine", "linear")[:2]
    return [
        Cell(
            table="language",
            name=f"language-{core}-250k",
            script="language",
            options={"core": core, "file": "data/tinyshakespeare.txt", "parameters": LANGUAGE_PARAMETERS},
            updates=3500,
            ms=ms,
            start=LANGUAGE_START if core == "fast_weights" else {},
            stages=(*rates, LANGUAGE_MEMORY) if core == "fast_weights" else rates,
            search_updates=700,
            measure="test_bits",
        )
        for core, ms in LANGUAGE_MS.items()
    ]


CELLS: list[Cell] = [
    *retrieval_cells(),
    *harder_cells(),
    *glimpses_cells(),
    *inner_step_cells(),
    *language_cells(),
]
