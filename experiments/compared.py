"""The pictures of docs/compare.md: ``fwagents compare`` on the kept runs of PartialCatch-v0.

A kept result holds a run's options, evaluations and final return. They are written as a run's folder, which is read.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.agents import PLAYERS, kept_runs
from experiments.board import ROOT
from experiments.cell import Run
from experiments.curves import learning_curves
from fwagents.comparison import compare
from fwagents.comparison.report import show
from fwagents.figures import learning_curves as drawn
from fwagents.figures import save
from fwagents.runs.folder import CONFIG, RESULT, write_json

RESULTS = ROOT / "results"
ENVIRONMENT, ALGORITHM = "PartialCatch-v0", "memory_ppo"


def pictures(folder: Path) -> Iterator[Path]:
    """Print the table; draw the curves, light and dark."""
    with tempfile.TemporaryDirectory() as runs:
        for cell in learning_curves():
            options = cell.options
            if cell.label in PLAYERS and (options["env"], options["algo"]) == (ENVIRONMENT, ALGORITHM):
                for run in kept_runs(RESULTS, cell):
                    restore(run, Path(runs) / f"{cell.label}-s{run['seed']}")
        panels = compare([runs])
    show(panels)
    for theme in ("light", "dark"):
        path = folder / f"compare-{theme}.png"
        save(drawn(panels, theme=theme), path)
        yield path


def restore(run: Run, folder: Path) -> None:
    """Write a kept result as a folder of ``fwagents agent``."""
    folder.mkdir(parents=True)
    write_json(folder / CONFIG, {"args": run["config"], "env_kwargs": {}, "policy_kwargs": run["policy_kwargs"]})
    write_json(folder / RESULT, {"steps": run["steps"][-1], "final_model": run["final"]})
    returns = np.array(run["mean_return"])[:, None]  # the mean of each evaluation is all that is kept of it
    np.savez(folder / "evaluations.npz", timesteps=run["steps"], results=returns)
