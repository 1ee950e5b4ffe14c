"""Measure how much pictures of the memory in TensorBoard slow training down: paired runs, with and without pictures.

    python benchmarks/memory_log.py            writes results/memory-log.json and a section of docs/performance.md

Both of a pair train the same agent from the same seed and end with the same weights, else nothing is reported. Seconds
are the processor's, which other programs disturb less than those of the clock; drawing is timed by itself too, within a
run, which they hardly disturb at all.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from fwagents.runs.options import Count
from fwagents.sb3 import MemoryPPO
from fwagents.sb3.logging import run_logger
from fwagents.sb3.memory_log import MemoryLogCallback
from measuring import Options, conduct, machine, options, provenance, table, timed

ENV = "PartialCatch-v0"


@dataclass
class Args(Options):
    """Measure what --log-memory costs."""

    total_timesteps: Count = 3_000_000
    """environment steps of each run; 3,000,000 are what train/agent.py trains for"""
    pairs: Count = 3
    """pairs of runs; every other one begins with the pictures"""


def measure(args: Args) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    train(4_000, True)  # compiles, and warms up what both need
    results: dict[str, Any] = {"machine": machine(), "env": ENV, "steps": args.total_timesteps, "pairs": []}
    for number in range(args.pairs):
        runs = {logged: train(args.total_timesteps, logged) for logged in ((True, False), (False, True))[number % 2]}
        if not torch.equal(*(run.pop("weights") for run in runs.values())):
            raise SystemExit("not reported: training with the pictures is not training without them")
        cost = runs[True]["cpu_seconds"] / runs[False]["cpu_seconds"] - 1
        results["pairs"].append({"with": runs[True], "without": runs[False], "cost": cost})
    results["largest_share"] = max(pair["with"]["share"] for pair in results["pairs"])
    results["median_cost"] = statistics.median(pair["cost"] for pair in results["pairs"])
    yield results


def train(steps: int, logged: bool) -> dict[str, Any]:
    """A run from its first step to its last, with what train/agent.py trains this environment with."""
    model = MemoryPPO.for_env(ENV, core="fast_weights", seed=0)
    pictures: Any = MemoryLogCallback(gym.make(ENV, render_mode="rgb_array"), 0, max(1, steps // 20))
    drawing: list[float] = []
    pictures._write = timed(pictures._write, drawing, time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(run_logger(Path(folder)))
        wall, cpu = time.perf_counter(), time.process_time()
        model.learn(steps, callback=pictures if logged else None, log_interval=max(1, steps // (64 * 15) // 200))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        model.logger.close()
    weights = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    share = sum(drawing) / cpu
    return {"seconds": wall, "cpu_seconds": cpu, "drawn": pictures.drawn, "share": share, "weights": weights}


def sections(results: dict[str, Any]) -> dict[str, str]:
    rows = [
        (
            *(number, *(f"{pair[which]['cpu_seconds']:.1f}" for which in ("without", "with"))),
            *(pair["with"]["drawn"], f"{pair['cost']:+.2%}", f"{pair['with']['share']:.2%}"),
        )
        for number, pair in enumerate(results["pairs"], 1)
    ]
    head = ("pair", "seconds without", "seconds with", "times drawn", "cost", "of it drawing")
    said = (
        f"{provenance(results['machine'])}; {results['steps']:,} steps of {results['env']} a run, processor seconds."
        f" Median cost {results['median_cost']:+.2%}, largest share spent drawing {results['largest_share']:.2%}."
    )
    return {"memory-log": f"{said}\n\n{table(head, rows)}"}


if __name__ == "__main__":
    args = options(Args, total_timesteps=4_000, pairs=1)
    conduct(args, "memory-log", partial(measure, args), sections)
