"""Compare runs: learning curves, final returns, steps to a level and steps per second, with intervals over seeds.

``fwagents compare runs/PartialCatch-v0 --output compare.png``
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fwagents.runs.cli import fail, parse
from fwagents.runs.options import Count, OutputFile, Real, TakenBy

PICTURES, TABLES = (".png", ".svg", ".pdf"), (".json", ".csv")


@dataclass
class Args:
    """Compare runs of fwagents agent and of Stable-Baselines3, averaged over the seeds of each setting."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Folders of runs, folders above runs, or quoted patterns such as "runs/*/gru-*"."""
    output: tuple[OutputFile, ...] = ()
    """Files to write: .png, .svg or .pdf for the curves, .csv for the table, .json for both."""
    level: Real | None = None
    """Return to which the steps are counted; None for 90 % of the way from the lowest first return of a setting to the
    best final one."""
    group_by: tuple[str, ...] = ()
    """Properties that all seeds of a setting share: options of fwagents agent, such as core; name (the folder's name
    without the number at its end), parent (the folder above) or run (each run by itself). By default all options, or
    the name where a run has no config.json."""
    curve: Literal["evaluation", "training"] | None = None
    """Returns that are compared; None for evaluations where every setting has some, else training."""
    window: Annotated[Count, TakenBy(curve=(None, "training"))] = 100
    """Training episodes in a mean."""
    average: Literal["mean", "iqm"] = "mean"
    """Mean over the seeds, or interquartile mean, of the middle half of them."""
    theme: Literal["light", "dark"] = "light"
    """Colours of a picture."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read the runs, print the table, write the files."""
    args = parse(Args, argv, prog="fwagents compare")
    for path in args.output:
        if path.suffix.lower() not in (*PICTURES, *TABLES):
            fail(f"--output is {path}, expected a name that ends in {', '.join((*PICTURES, *TABLES))}")
    try:
        compare(args)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))


def compare(args: Args) -> None:
    """Compare the runs and show the result."""
    from fwagents.comparison import compare
    from fwagents.comparison.report import show, write_numbers, write_table

    panels = compare(
        args.run_dirs,
        level=args.level,
        group_by=args.group_by,
        measure=args.curve,
        window=args.window,
        average=args.average,
    )
    show(panels)
    for path in args.output:
        if path.suffix.lower() in PICTURES:
            from fwagents.figures import learning_curves, save

            save(learning_curves(panels, theme=args.theme), path)
        else:
            (write_table if path.suffix.lower() == ".csv" else write_numbers)(panels, path)
        print(f"wrote {path}")
