"""MNIST by glimpses: Table 2 of Ba et al. (2016), with a GRU, and fast weights in plain and in multilevel form."""

from pathlib import Path

from experiments.cell import Cell, Grid, Setting, Stage
from experiments.document import paragraphs, picture
from experiments.figures import NAMES, errors
from experiments.supervised import (
    NOTHING,
    Own,
    Results,
    at_most,
    cell,
    compared,
    no_worse,
    provenance,
    rates,
    settings,
    verdicts,
)

# Test errors that the paper reports, in percent, by model and size.
TABLE_2 = {
    "irnn": {50: 12.95, 100: 1.95, 200: 1.42},
    "lstm": {50: 12.0, 100: 1.55, 200: 1.10},
    "convnet": {50: 1.81, 100: 1.00, 200: 0.9},
    "multilevel": {50: 7.21, 100: 1.30, 200: 0.85},
}
GLIMPSES_SEARCH = rates("cosine", "linear")
# The paper's constants. Milliseconds per update at 50, 100 and 200 features, on one of two busy CPU cores.
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
    """Return a cell for every model and number of features."""
    return [
        cell(
            "glimpses",
            label,
            f"mnist-{label}-{features}",
            "glimpses",
            {**({"model": label} if label in ("convnet", "multilevel") else {"core": label}), "hidden_size": features},
            30 * EPOCH,
            ms,
            Grid((*GLIMPSES_SEARCH, *own), 6 * EPOCH, start),
        )
        for label, times in GLIMPSES_MS.items()
        for start, own in [GLIMPSES_OWN.get(label, NOTHING)]
        for features, ms in zip(FEATURES, times, strict=True)
    ]


CELLS: list[Cell] = glimpses_cells()


def section(folder: Path, figures: Path) -> str:
    """Return the section with the paper's Table 2."""
    results = Results(folder, CELLS)

    def name(label: str, size: int) -> str:
        return f"mnist-{label}-{size}"

    labels = ["irnn", "lstm", "gru", "convnet", "fast_weights", "multilevel"]
    ours = {label: results.points({size: name(label, size) for size in FEATURES}) for label in labels}
    if any(ours.values()):
        errors(figures / "glimpses", ours, "features", "MNIST by glimpses", TABLE_2)
    memories = ("multilevel", "fast_weights")
    claims = [
        *(at_most(results, name(m, n), v, f"{NAMES[m]}, {n} features: at most the paper's {v:g} %")
          for m in memories for n, v in TABLE_2["multilevel"].items()),
        *(no_worse(results, name(m, n), [name("lstm", n)], f"{NAMES[m]}, {n} features: no worse than the LSTM")
          for m in memories for n in FEATURES),
        *(no_worse(results, name("multilevel", n), [name("convnet", n)],
                   f"{NAMES['multilevel']}, {n} features: no worse than the ConvNet")
          for n in FEATURES),
    ]  # fmt: skip
    return paragraphs(
        [
            provenance(results, "glimpses"),
            compared(results, labels, FEATURES, name, TABLE_2, "features"),
            picture(figures, "glimpses", "Test error against features"),
            verdicts(claims),
            "What the searches chose, and what the runs took:",
            settings(results, [name(label, size) for label in labels for size in FEATURES]),
        ]
    )
