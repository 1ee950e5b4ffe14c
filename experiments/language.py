"""Character-level language modelling at equal parameters. A run is seven passes through the text, a trial a fifth."""

import statistics
from pathlib import Path

from experiments.cell import Cell, Grid, Setting, Stage
from experiments.document import paragraphs, table
from experiments.figures import NAMES
from experiments.supervised import Results, cell, no_worse, provenance, rates, settings, verdicts

# Milliseconds per update, 32 rows of 64 characters, on one CPU core. The paper's rate does not learn with so many
# units; see fwagents/settings.py.
LANGUAGE_MS = {"fast_weights": 90.0, "lstm": 26.0, "gru": 56.0}
LANGUAGE_PARAMETERS = 250_000
LANGUAGE_START: Setting = {"decay": 0.95, "fast_lr": 0.03}
LANGUAGE_MEMORY: Stage = tuple(
    {"decay": decay, "fast_lr": rate} for decay, rate in [(0.95, 0.01), (0.95, 0.1), (0.99, 0.03)]
)


def language_cells() -> list[Cell]:
    """Return a cell for every core."""
    stages = rates("cosine", "linear")[:2]
    return [
        cell(
            "language",
            core,
            f"language-{core}-250k",
            "language",
            {"core": core, "file": "data/tinyshakespeare.txt", "parameters": LANGUAGE_PARAMETERS},
            3500,
            ms,
            Grid((*stages, LANGUAGE_MEMORY), 700, LANGUAGE_START) if core == "fast_weights" else Grid(stages, 700, {}),
        )
        for core, ms in LANGUAGE_MS.items()
    ]


CELLS: list[Cell] = language_cells()


def section(folder: Path, figures: Path) -> str:
    """Return the table of bits per character."""
    results = Results(folder, CELLS, "test_bits")
    rows = []
    for each in CELLS:
        runs = [run for run in results.runs[each.name] if run["test_bits"] is not None]
        sizes = [f"{runs[0][of]:,}" if runs else "" for of in ("parameters", "hidden_size")]
        means = [
            f"{statistics.fmean(run[of] for run in runs):.2f}" if runs else ""
            for of in ("validation_bits", "test_error")
        ]
        rows.append((NAMES[each.label], *sizes, results.text(each.name), *means))
    ours, *rivals = CELLS
    claims = [
        no_worse(results, ours.name, [rival.name], f"fast weights no worse than the {NAMES[rival.label]}")
        for rival in rivals
    ]
    head = ("model", "weights", "hidden units", "test, bits per character", "validation", "next characters missed, %")
    return paragraphs(
        [
            provenance(results, "language"),
            table(head, rows),
            verdicts(claims, "bits"),
            "What the searches chose, and what the runs took:",
            settings(results, [each.name for each in CELLS]),
        ]
    )
