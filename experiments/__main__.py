"""Run what the results still lack, then write their sections of the documentation, with figures.

    python -m experiments                      everything that is missing, two runs at a time; then all sections
    python -m experiments --only suite         one experiment
    python -m experiments --dry-run            what is missing, and how long it should take

The command can be stopped or killed at any moment: when it is called again, runs resume from their checkpoints. A
result whose options differ from the options of its cell is run again.
"""

import importlib
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated

from experiments import EXPERIMENTS
from experiments.board import ROOT, Board, Budget, in_hours
from experiments.cell import Cell
from experiments.document import put_section
from fwagents.runs.cli import fail, parse
from fwagents.runs.interrupts import as_script
from fwagents.runs.options import Threads, at_least

SHOWN = 6  # names, where an error says what could be


@dataclass
class Args:
    """Run what the results still lack, then write their sections."""

    only: tuple[str, ...] = ()
    """Experiments to run and to write; none is all."""
    cells: tuple[str, ...] = ()
    """Cells to run, by name; none is all."""
    dry_run: bool = False
    """Run nothing and write nothing; list what is left."""
    run: bool = True
    """--no-run only writes the sections, of what there is."""
    search_only: bool = False
    """Search, and leave the reported runs for later."""
    minutes: Annotated[float, at_least(0)] | None = None
    """Stop after this many minutes; unfinished runs resume at the next call."""
    num_workers: Threads = 2
    """Runs at a time."""
    results: Path = ROOT / "results"
    """Where the results are."""
    document: Path = ROOT / "docs" / "results.md"
    """Where the sections go; some have a page beside it, and the figures go to the folder figures beside it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, list, run, write."""
    args = parse(Args, argv)
    experiments = {name.replace("_", "-"): importlib.import_module(f"experiments.{name}") for name in EXPERIMENTS}
    cells = [cell for experiment in experiments.values() for cell in experiment.CELLS]
    groups = dict.fromkeys([*experiments, *(cell.group for cell in cells)])
    known("--only", args.only, groups)
    known("--cells", args.cells, [cell.name for cell in cells])
    if args.only:
        experiments = {name: each for name, each in experiments.items() if {name, *groups_of(each)} & {*args.only}}
    try:
        if args.run or args.dry_run:
            list_and_run(args, [cell for each in experiments.values() for cell in each.CELLS if asked(args, cell)])
        if not args.dry_run:
            write(experiments, args.results, args.document)
    except (OSError, ValueError, KeyError) as error:  # a result file that is damaged
        fail(f"{error} is missing from a result" if isinstance(error, KeyError) else str(error))


def known(option: str, given: Iterable[str], names: Iterable[str]) -> None:
    """Leave with an error if an option names what is not there."""
    names = list(names)
    for name in given:
        if name not in names:
            likely = get_close_matches(name, names, SHOWN, cutoff=0.0)  # of hundreds of cells
            some = names if len(names) <= SHOWN else [*likely, "..."]
            fail(f"{option} has {name!r}, expected some of {', '.join(some)}")


def groups_of(experiment: ModuleType) -> set[str]:
    """The groups of an experiment's cells: its own name, and its parts."""
    return {cell.group for cell in experiment.CELLS}


def asked(args: Args, cell: Cell) -> bool:
    """Return whether the command line asks for a cell."""
    return (not args.only or cell.group in args.only) and (not args.cells or cell.name in args.cells)


def list_and_run(args: Args, cells: Sequence[Cell]) -> None:
    """List what is left, and work on it until all is there or the time is up; leaves if a run failed."""
    absent = {module for cell in cells if (module := module_of(cell)) and find_spec(module) is None}
    if absent:
        print(f"Left out, since these are not installed: {', '.join(sorted(absent))}")
        cells = [cell for cell in cells if module_of(cell) not in absent]
    board = Board(cells, args.results, ROOT / "runs" / "results", ROOT / "train", args.search_only)
    total = 0.0
    for name, what, minutes in board.left():
        print(f"{name:45} {what}: {minutes:5.0f} min")
        total += minutes
    share = in_hours(total / args.num_workers)
    print(f"Left: {in_hours(total)} of one process, {share} with {args.num_workers}.")
    if not args.dry_run:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if code := board.work(Budget(args.num_workers, args.minutes)):
            sys.exit(code)


def module_of(cell: Cell) -> str:
    """The module that brings a cell's environment; empty for our own and Gymnasium's."""
    module: str = cell.options.get("env", "").rpartition(":")[0]
    return module


def write(experiments: dict[str, ModuleType], results: Path, document: Path) -> None:
    """Write the section of every experiment, with its figures; what has not been run yet is shown as such.

    The section of a new experiment goes to the end of the page, below a heading made from the file's first line.
    """
    figures = document.parent / "figures"
    for name, experiment in experiments.items():
        page = document.with_name(getattr(experiment, "PAGE", document.name))
        title = str(experiment.__doc__).partition("\n")[0].rstrip(".")
        put_section(page, name, title, experiment.section(results, figures))
    print(f"Wrote {', '.join(experiments)} into {document.parent}; figures are in {figures}")


if __name__ == "__main__":
    as_script(main)
