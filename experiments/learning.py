"""Does the agent learn with every seed? Every run is the command that a user would type, with the defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import machine, write_results
from experiments.cell import Cell, Run, Setting
from experiments.document import table
from fwagents.runs.folder import CONFIG, RESULT, read_json

SEEDS = (10, 11, 12, 13, 14)  # no setting was tuned on these seeds
FILE = "learning.json"
FAST: Setting = {"core": "fast_weights"}
LSTM: Setting = {"core": "lstm"}
SETTINGS: dict[str, Setting] = {
    "PartialCatch-v0, MemoryPPO, fast weights": {"env": "PartialCatch-v0", **FAST},
    "PartialCatch-v0, MemoryPPO, LSTM": {"env": "PartialCatch-v0", **LSTM},
    "PartialCatch-v0, MemoryA2C, fast weights": {"env": "PartialCatch-v0", **FAST, "algo": "memory_a2c"},
    "PartialCatch-v0, RecurrentPPO, fast weights": {"env": "PartialCatch-v0", **FAST, "algo": "recurrent_ppo"},
    "PartialCatchLarge-v0, MemoryPPO, fast weights": {"env": "PartialCatchLarge-v0", **FAST},
    "PartialCatchLarge-v0, MemoryPPO, LSTM": {"env": "PartialCatchLarge-v0", **LSTM},
    "CartPoleNoVel-v1, MemoryPPO, fast weights": {"env": "CartPoleNoVel-v1", **FAST},
    "CartPoleNoVel-v1, MemoryPPO, LSTM": {"env": "CartPoleNoVel-v1", **LSTM},
}


@dataclass(frozen=True, eq=False)
class Learner(Cell):
    """A cell whose runs are rows of results/learning.json; a run stays valid if the defaults change later."""

    def path(self, results: Path, seed: int) -> Path:
        """Return the path of the file with all rows."""
        return results / FILE

    def kept(self, results: Path, seed: int, options: Setting | None = None) -> Run | None:
        """Return the row of a seed; None if there is none."""
        rows: list[Run] = read_json(self.path(results, seed)) or []
        return next((row for row in rows if (row["setting"], row["seed"]) == (self.label, seed)), None)

    def keep(self, results: Path, seed: int, run: Path) -> str | None:
        """Add the row of a run that has ended: its command, its time, and its return over 1,000 fresh episodes."""
        result, command = read_json(run / RESULT), (read_json(run / CONFIG) or {}).get("command")
        if result is None or "final_model" not in result:
            return None
        final = result["final_model"]
        row: dict[str, Any] = {
            **{"setting": self.label, "seed": seed, "steps": result["steps"]},
            "seconds": round((run / RESULT).stat().st_mtime - (run / CONFIG).stat().st_mtime),
            **{name: final[name] for name in ("mean_return", "interval", "success_rate")},
            **{"command": command, "machine": machine()},
        }
        rows: list[Run] = read_json(self.path(results, seed)) or []
        others = [each for each in rows if (each["setting"], each["seed"]) != (self.label, seed)]
        write_results(self.path(results, seed), [*others, row])
        return f"mean return {row['mean_return']:.3f} in {row['seconds']} s"


CELLS: list[Cell] = [
    Learner("learning", label, label.replace(", ", "-").replace(" ", "-"), options, seeds=SEEDS, seconds=200.0)
    for label, options in SETTINGS.items()
]


def section(results: Path, folder: Path) -> str:
    """Return the table of what was run."""
    rows: list[tuple[str, ...]] = []
    machines: list[Run] = []
    for cell in CELLS:
        runs = [run for seed in cell.seeds if (run := cell.kept(results, seed)) is not None]
        machines += [run["machine"] for run in runs]
        if runs:
            returns = ", ".join(f"{run['mean_return']:.3f}" for run in runs)
            rows.append((cell.label, f"{runs[0]['steps']:,}", returns, ", ".join(str(run["seconds"]) for run in runs)))
    if not rows:
        return "not run."
    first, last = (choose(machines, key=lambda each: each["date"]) for choose in (min, max))
    return (
        f"`make results` on {first['cpu']}, {first['cores']} cores, torch {first['torch']}, commits "
        f"{first['commit']} to {last['commit']}, {first['date']} to {last['date']}.\n\n"
        + table(("setting", "steps", "mean return of each seed", "seconds of each run"), rows)
    )
