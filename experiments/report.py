"""Turn results into sections of docs/results.md, and figures.

``python -m experiments.report`` reads the folders retrieval, glimpses, language, tuning and curves of results. What
has not been run yet is shown as such.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import (
    curves_report,
    elsewhere_report,
    figures,
    inner_steps_report,
    rotary,
    suite_report,
    tuning_report,
)
from experiments.cells import CELLS, FEATURES, PAIRS, SIZES, Cell
from experiments.document import picture, table, write_section
from experiments.figures import NAMES
from experiments.paper import FIGURE_2, TABLE_1, TABLE_2
from fwagents.runs.cli import fail, parse
from fwagents.runs.folder import read_json
from fwagents.runs.interrupts import as_script

ROOT = Path(__file__).parent.parent

NOT_RUN = "not run"
LEVEL = 0.1  # nats, of Figure 2
Result = dict[str, Any]
# A claim, what was measured, and whether it holds; None where a run is missing.
Claim = tuple[str, str, bool | None]


@dataclass
class Args:
    """Turn results into tables and figures."""

    results: Path = ROOT / "results"
    """Where they are."""
    document: Path = ROOT / "docs" / "results.md"
    """Where the tables go; the figures go to the folder figures beside it."""

    @property
    def figures(self) -> Path:
        """Where the figures go."""
        return self.document.parent / "figures"


class Results:
    """The runs of the cells.

    Args:
        folder: of the result files.
        cells: the cells.
    """

    def __init__(self, folder: Path, cells: Iterable[Cell] = CELLS) -> None:
        self.cells = {cell.name: cell for cell in cells}
        self.runs: dict[str, list[Result]] = {}
        for name, cell in self.cells.items():
            paths = [folder / cell.script / f"{name}-s{seed}.json" for seed in cell.seeds]
            self.runs[name] = [run for path in paths if (run := read_json(path)) is not None]

    def errors(self, name: str) -> list[float]:
        """What the cell reports of its seeds: test errors, percent, or bits."""
        measure = self.cells[name].measure
        return [run[measure] for run in self.runs[name] if run[measure] is not None]

    def mean(self, name: str) -> float | None:
        """Their mean; None where a seed is missing."""
        errors = self.errors(name)
        return statistics.fmean(errors) if len(errors) == len(self.cells[name].seeds) else None

    def points(self, names: dict[int, str]) -> dict[int, tuple[float, float | None]]:
        """Means and standard errors of what was run, by size."""
        return {x: (statistics.fmean(e), standard_error(e)) for x, name in names.items() if (e := self.errors(name))}

    def text(self, name: str) -> str:
        """Mean and standard error; and how many seeds, where it is not three."""
        errors, seeds = self.errors(name), len(self.cells[name].seeds)
        if not errors:
            return NOT_RUN
        spread = standard_error(errors)
        text = f"{statistics.fmean(errors):.2f}" + ("" if spread is None else f" ± {spread:.2f}")
        if len(errors) < seeds:
            return f"{text} ({len(errors)} of {seeds} seeds)"
        return text if seeds == 3 else f"{text} ({seeds} seed{'s' * (seeds > 1)})"

    def reached(self, name: str) -> list[int | None]:
        """Updates at which the test NLL of each seed was first seen below the level; None for never."""
        curves = [run["curve"] for run in self.runs[name]]
        return [
            next((u for u, nll in zip(c["update"], c["test_nll"], strict=True) if nll < LEVEL), None) for c in curves
        ]


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def at_most(results: Results, name: str, target: float, words: str) -> Claim:
    """Whether a mean, to the two decimals that the paper prints, is at most a target."""
    mean = results.mean(name)
    return words, results.text(name), None if mean is None else round(mean, 2) <= target


def no_worse(results: Results, name: str, others: Sequence[str], words: str) -> Claim:
    """Whether a cell's mean is at most that of every other."""
    means = [results.mean(other) for other in [name, *others]]
    if None in means:
        return words, NOT_RUN, None
    shown = f"{results.text(name)} against {', '.join(results.text(other) for other in others)}"
    ours, *theirs = [mean for mean in means if mean is not None]
    return words, shown, ours <= min(theirs)


def verdicts(claims: Iterable[Claim], unit: str = "%") -> str:
    """Claims as a table."""
    words = {True: "yes", False: "no", None: NOT_RUN}
    return table(
        ("claim", f"measured, {unit}", "holds"), [(claim, shown, words[holds]) for claim, shown, holds in claims]
    )


def compared(
    results: Results,
    labels: Sequence[str],
    sizes: Sequence[int],
    name: Callable[[str, int], str],
    paper: dict[str, Any],
    head: str,
) -> str:
    """A table of test errors with the paper's beside ours, where it has any at that size."""
    printed = [size for size in sizes if any(size in row for row in paper.values())]
    columns = [c for size in sizes for c in ([f"{head} {size}", "paper"] if size in printed else [f"{head} {size}"])]
    rows = []
    for label in labels:
        row = [NAMES[label]]
        for size in sizes:
            row.append(results.text(name(label, size)))
            if size in printed:
                theirs = paper.get(label, {}).get(size)
                row.append("" if theirs is None else f"{theirs:g}")
        rows.append(row)
    return table(("test error, %", *columns), rows)


def settings(results: Results, names: Iterable[str]) -> str:
    """What the searches chose, what the runs took; of what was run."""
    head = (
        "cell",
        "learning rate",
        "schedule",
        "decay",
        "fast rate",
        "W at first",
        "budget",
        "updates",
        "ms an update",
        "weights",
    )
    rows = []
    for name in names:
        runs = results.runs[name]
        if runs:
            config = runs[0]["config"]
            memory = [runs[0]["core_kwargs"].get(option) for option in ("decay", "fast_lr", "identity_scale")]
            updates = statistics.fmean(run["updates"] for run in runs)
            ms = statistics.median(1000 * run["seconds"] / run["updates"] for run in runs)
            rows.append(
                (
                    *(name, f"{config['learning_rate']:g}", config["lr_schedule"]),
                    *("" if value is None else f"{value:g}" for value in memory),
                    *(f"{config['updates']:,}", f"{updates:,.0f}", f"{ms:.1f}", f"{runs[0]['parameters']:,}"),
                )
            )
    return table(head, rows) if rows else f"Settings: {NOT_RUN}."


def paragraphs(parts: Iterable[str]) -> str:
    """What there is of them, an empty line between."""
    return "\n\n".join(part for part in parts if part)


def provenance(results: Results, table_name: str) -> str:
    """How much there is, and what made it."""
    cells = [cell for cell in results.cells.values() if cell.table == table_name]
    runs = [run for cell in cells for run in results.runs[cell.name]]
    commits = sorted({str(run["commit"]) for run in runs})
    torches = sorted({run["versions"]["torch"] for run in runs})
    made = f", at {'commit' if len(commits) == 1 else 'commits'} {', '.join(commits)}, torch {', '.join(torches)}"
    return f"`make tables`: {len(runs)} of {sum(len(c.seeds) for c in cells)} runs are there{made if runs else ''}."


def retrieval(args: Args, results: Results) -> str:
    """Table 1 and Figure 2."""

    def name(label: str, size: int) -> str:
        return f"{label}-{size}"

    labels = list(TABLE_1)
    rivals = [label for label in labels if label != "fast_weights"]
    ours = {label: results.points({size: name(label, size) for size in SIZES}) for label in labels}
    if any(ours.values()):
        path = args.figures / "retrieval"
        figures.errors(path, ours, "hidden units R", "Associative retrieval, four pairs", TABLE_1)
    seeds = {
        label: [(run["curve"]["update"], run["curve"]["test_nll"]) for run in results.runs[name(label, 50)]]
        for label in labels
    }
    if any(seeds.values()):
        figures.curves(args.figures / "figure-2", seeds, LEVEL, "Associative retrieval, R = 50")
    claims = [
        *(at_most(results, name("fast_weights", r), v, f"fast weights, R = {r}: at most the paper's {v:g} %")
          for r, v in TABLE_1["fast_weights"].items()),
        at_most(results, name("fast_weights", 20), 0.5, "fast weights, R = 20: at most 0.5 %"),
        *(no_worse(results, name("fast_weights", r), [name(rival, r) for rival in rivals],
                   f"R = {r}: fast weights no worse than {', '.join(NAMES[rival] for rival in rivals)}")
          for r in SIZES),
    ]  # fmt: skip
    reached = []
    for label in labels:
        found, budget = results.reached(name(label, 50)), results.cells[name(label, 50)].updates
        shown = ", ".join(f"not in {budget:,}" if update is None else f"{update:,}" for update in found)
        theirs = FIGURE_2[label]
        reached.append((NAMES[label], shown or NOT_RUN, "never" if theirs is None else f"{theirs:,}"))
    return paragraphs(
        [
            provenance(results, "retrieval"),
            compared(results, labels, SIZES, name, TABLE_1, "R ="),
            picture(args.figures, "retrieval", "Test error against hidden units"),
            verdicts(claims),
            f"Updates until the test NLL at R = 50 is first seen below {LEVEL:g} (Figure 2), each seed:",
            table(("model", "updates", "paper"), reached),
            picture(args.figures, "figure-2", "Test NLL against updates at R = 50"),
            "What the searches chose, and what the runs took:",
            settings(results, [name(label, size) for label in labels for size in SIZES]),
        ]
    )


def harder(args: Args, results: Results) -> str:
    """More pairs."""
    pairs = (4, *PAIRS)

    def name(label: str, count: int) -> str:
        return f"{label}-50" if count == 4 else f"{label}-50-k{count}"

    labels = list(TABLE_1)
    ours = {label: results.points({count: name(label, count) for count in pairs}) for label in labels}
    if any(ours.values()):
        path = args.figures / "harder"
        figures.errors(path, ours, "pairs K", "Associative retrieval, R = 50")
    return paragraphs(
        [
            provenance(results, "harder"),
            compared(results, labels, pairs, name, {}, "K ="),
            f"The string's most frequent digit, for which no key is needed, is wrong in {without_keys(pairs)} %.",
            picture(args.figures, "harder", "Test error against pairs"),
            settings(results, [name(label, count) for label in labels for count in PAIRS]),
        ]
    )


def without_keys(pairs: Iterable[int]) -> str:
    """Errors of the most frequent digit, for so many pairs each."""
    from fwagents.tasks.retrieval import RetrievalTask

    return ", ".join(f"{RetrievalTask(count).keyless_error:.1f}" for count in pairs)


def glimpses(args: Args, results: Results) -> str:
    """Table 2."""

    def name(label: str, size: int) -> str:
        return f"mnist-{label}-{size}"

    labels = ["irnn", "lstm", "gru", "convnet", "fast_weights", "multilevel"]
    ours = {label: results.points({size: name(label, size) for size in FEATURES}) for label in labels}
    if any(ours.values()):
        figures.errors(args.figures / "glimpses", ours, "features", "MNIST by glimpses", TABLE_2)
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
            picture(args.figures, "glimpses", "Test error against features"),
            verdicts(claims),
            "What the searches chose, and what the runs took:",
            settings(results, [name(label, size) for label in labels for size in FEATURES]),
        ]
    )


def language(args: Args, results: Results) -> str:
    """Bits per character at equal parameters."""
    cells = [cell for cell in results.cells.values() if cell.table == "language"]
    rows = []
    for cell in cells:
        runs = [run for run in results.runs[cell.name] if run["test_bits"] is not None]
        sizes = [f"{runs[0][of]:,}" if runs else "" for of in ("parameters", "hidden_size")]
        means = [
            f"{statistics.fmean(run[of] for run in runs):.2f}" if runs else ""
            for of in ("validation_bits", "test_error")
        ]
        rows.append((NAMES[cell.options["core"]], *sizes, results.text(cell.name), *means))
    ours, *rivals = cells
    claims = [
        no_worse(results, ours.name, [rival.name], f"fast weights no worse than the {NAMES[rival.options['core']]}")
        for rival in rivals
    ]
    head = ("model", "weights", "hidden units", "test, bits per character", "validation", "next characters missed, %")
    return paragraphs(
        [
            provenance(results, "language"),
            table(head, rows),
            verdicts(claims, "bits"),
            "What the searches chose, and what the runs took:",
            settings(results, [cell.name for cell in cells]),
        ]
    )


def tuning(args: Args, results: Results) -> str:
    """The searches for agents."""
    return tuning_report.section(args.results)


def curves(args: Args, results: Results) -> str:
    """The paper's Figure 5."""
    return curves_report.section(args.results, args.figures)


def suite(args: Args, results: Results) -> str:
    """The memory suite."""
    return suite_report.section(args.results, args.figures)


def rotary_fast_weights(args: Args, results: Results) -> str:
    """The default memory's targets and ablations."""
    return rotary.section(args.results)


def elsewhere(args: Args, results: Results) -> str:
    """Environments that others wrote."""
    return elsewhere_report.section(args.results)


def inner_steps(args: Args, results: Results) -> str:
    """How many reads."""
    return inner_steps_report.section(args.results, args.figures)


SECTIONS = {
    "retrieval": retrieval,
    "harder": harder,
    "glimpses": glimpses,
    "language": language,
    "tuning": tuning,
    "curves": curves,
    "suite": suite,
    "rotary": rotary_fast_weights,
    "elsewhere": elsewhere,
    "inner-steps": inner_steps,
}
PAGES = {"inner-steps": "inner-steps.md"}  # sections that stand beside the document, on a page of their own


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    args = parse(Args, argv)
    try:
        results = Results(args.results)
        for name, section in SECTIONS.items():
            page = args.document.with_name(PAGES.get(name, args.document.name))
            write_section(page, name, section(args, results))
    except (OSError, ValueError, KeyError) as error:
        fail(f"{error} is missing from a result" if isinstance(error, KeyError) else str(error))
    print(f"Wrote {', '.join(SECTIONS)} into {args.document.parent}; figures are in {args.figures}")


if __name__ == "__main__":
    as_script(main)
