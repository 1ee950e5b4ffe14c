"""Does the agent learn, every time? Runs train/agent.py over seeds and keeps what each run came to.

``python benchmarks/learning.py`` runs what is missing from results/learning.json, so it can be stopped and begun again.
Every run is the command line that a user would type, with the defaults that they would get.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from measuring import ROOT, machine, table, write_results, write_section

OUT = ROOT / "results" / "learning.json"
DOCUMENT = ROOT / "docs" / "results.md"
# Seeds that nothing was tuned on.
SEEDS = (10, 11, 12, 13, 14)
CELL = ("--core", "fast_weights")
SETTINGS: dict[str, list[str]] = {
    "PartialCatch-v0, MemoryPPO, fast weights": ["--env", "PartialCatch-v0", *CELL],
    "PartialCatch-v0, MemoryPPO, LSTM": ["--env", "PartialCatch-v0", "--core", "lstm"],
    "PartialCatch-v0, MemoryA2C, fast weights": ["--env", "PartialCatch-v0", *CELL, "--algo", "memory_a2c"],
    "PartialCatch-v0, RecurrentPPO, fast weights": ["--env", "PartialCatch-v0", *CELL, "--algo", "recurrent_ppo"],
    "PartialCatchLarge-v0, MemoryPPO, fast weights": ["--env", "PartialCatchLarge-v0", *CELL],
    "PartialCatchLarge-v0, MemoryPPO, LSTM": ["--env", "PartialCatchLarge-v0", "--core", "lstm"],
    "CartPoleNoVel-v1, MemoryPPO, fast weights": ["--env", "CartPoleNoVel-v1", *CELL],
    "CartPoleNoVel-v1, MemoryPPO, LSTM": ["--env", "CartPoleNoVel-v1", "--core", "lstm"],
}


@dataclass
class Args:
    """Run train/agent.py over seeds."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    """Which settings to run."""
    num_workers: int = 2
    """Runs at a time."""
    log_dir: Path = Path("runs/learning")
    """Where the runs go."""


def run(setting: str, seed: int, log_dir: Path) -> dict[str, Any]:
    """One run: its command, its budget, its time, and how it plays at the end over 1,000 fresh episodes."""
    command = ["train/agent.py", *SETTINGS[setting], "--seed", str(seed)]
    folder = log_dir / f"{setting.replace(', ', '-').replace(' ', '-')}-{seed}"
    begun = time.time()
    done = subprocess.run(
        [sys.executable, *command, "--log-dir", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    newest = max(ROOT.glob(f"{folder}/*/*/result.json"), key=os.path.getmtime)
    result = json.loads(newest.read_text())
    return {
        "setting": setting,
        "seed": seed,
        "steps": result["steps"],
        "seconds": round(time.time() - begun),
        "mean_return": result["final_model"]["mean_return"],
        "interval": result["final_model"]["interval"],
        "success_rate": result["final_model"]["success_rate"],
        "command": "python " + " ".join(command),
        "machine": machine(),
    }


def main() -> None:
    args = tyro.cli(Args)
    runs: list[dict[str, Any]] = json.loads(OUT.read_text()) if OUT.exists() else []
    done = {(r["setting"], r["seed"]) for r in runs}
    missing = [(setting, seed) for setting in args.settings for seed in SEEDS if (setting, seed) not in done]
    with ThreadPoolExecutor(args.num_workers) as pool:
        for result in pool.map(lambda job: run(*job, args.log_dir), missing):
            runs.append(result)
            write_results(OUT, runs)
            print(f"{result['setting']}, seed {result['seed']}: {result['mean_return']:.3f} in {result['seconds']} s")
    head = ("setting", "steps", "mean return of each seed", "seconds of each run")
    rows = []
    for setting in SETTINGS:
        of_it = sorted((r for r in runs if r["setting"] == setting), key=lambda r: r["seed"])
        if of_it:
            returns = ", ".join(f"{r['mean_return']:.3f}" for r in of_it)
            rows.append((setting, f"{of_it[0]['steps']:,}", returns, ", ".join(str(r["seconds"]) for r in of_it)))
    first, last = runs[0]["machine"], runs[-1]["machine"]
    write_section(
        DOCUMENT,
        "learning",
        f"`python benchmarks/learning.py` on {first['cpu']}, {first['cores']} cores, torch {first['torch']}, commits "
        f"{first['commit']} to {last['commit']}, {first['date']} to {last['date']}.\n\n{table(head, rows)}",
    )


if __name__ == "__main__":
    main()
