"""Associative retrieval with more pairs than Table 1 has, at R = 50."""

from collections.abc import Iterable
from pathlib import Path

from experiments import retrieval
from experiments.cell import Cell, Grid
from experiments.document import paragraphs, picture
from experiments.figures import errors
from experiments.retrieval import NAMED, RETRIEVAL_MS, TABLE_1, share_of
from experiments.supervised import Results, cell, compared, provenance, settings
from fwagents.tasks.retrieval import RetrievalTask

HARDER_UPDATES = 20_000
PAIRS = (8, 16, 26)  # beside the 4 of Table 1


def harder_cells() -> list[Cell]:
    """Return a cell for every core and number of pairs.

    Learning rates are those of the search with four pairs; the decay of fast weights is searched again.
    """
    return [
        cell(
            "harder",
            core,
            f"{core}-50-k{pairs}",
            "retrieval",
            {"core": core, "hidden_size": 50, "pairs": pairs},
            share_of(core, HARDER_UPDATES),
            times[2] * (2 * pairs + 3) / 11,
            Grid(
                (tuple({"decay": d} for d in (0.9, 0.95, 0.98, 1.0)),) if core == "fast_weights" else (),
                HARDER_UPDATES // 2,
                {},
                of=NAMED[f"{core}-50"],
            ),
        )
        for core, times in RETRIEVAL_MS.items()
        for pairs in PAIRS
    ]


CELLS: list[Cell] = harder_cells()


def section(folder: Path, figures: Path) -> str:
    """Return the table and the figure of more pairs."""
    results = Results(folder, [*retrieval.CELLS, *CELLS])
    pairs = (4, *PAIRS)

    def name(label: str, count: int) -> str:
        return f"{label}-50" if count == 4 else f"{label}-50-k{count}"

    labels = list(TABLE_1)
    ours = {label: results.points({count: name(label, count) for count in pairs}) for label in labels}
    if any(ours.values()):
        path = figures / "harder"
        errors(path, ours, "pairs K", "Associative retrieval, R = 50")
    return paragraphs(
        [
            provenance(results, "harder"),
            compared(results, labels, pairs, name, {}, "K ="),
            f"The string's most frequent digit, for which no key is needed, is wrong in {without_keys(pairs)} %.",
            picture(figures, "harder", "Test error against pairs"),
            settings(results, [name(label, count) for label in labels for count in PAIRS]),
        ]
    )


def without_keys(pairs: Iterable[int]) -> str:
    """Return the errors of always answering the most frequent digit, for each number of pairs, as text."""
    return ", ".join(f"{RetrievalTask(count).keyless_error:.1f}" for count in pairs)
