"""Measure how much pictures of the memory in TensorBoard slow training down: paired runs, with and without pictures.

    python benchmarks/memory_log.py            writes results/memory-log.json and a section of docs/performance.md
    python benchmarks/memory_log.py --quick    tiny sizes, to see that it runs; prints the results, writes nothing

Both runs of a pair train the same agent from the same seed and end with the same weights, else nothing is reported.
Seconds are processor time, which other programs disturb less than wall-clock time. Drawing is also timed by itself
within a run, which is disturbed least.
"""

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import tyro

from fwagents.sb3 import MemoryPPO, make_vec_env
from fwagents.sb3.logging import run_logger
from fwagents.sb3.memory_log import MemoryLogCallback
from measuring import ROOT, check_output, machine, publish, table, write_results, write_section

DOCUMENT, SECTION = ROOT / "docs" / "performance.md", "memory-log"
ENV = "PartialCatch-v0"


class Timed(MemoryLogCallback):
    """Count the processor seconds that drawing takes."""

    drawing = 0.0

    def _write(self) -> None:
        begin = time.process_time()
        super()._write()
        self.drawing += time.process_time() - begin


@dataclass
class Args:
    """Measure what --log-memory costs."""

    quick: bool = False
    """tiny sizes; prints the results and writes nothing"""
    total_timesteps: int = 3_000_000
    """environment steps of each run; 3,000,000 are what train/agent.py trains for"""
    pairs: int = 3
    """pairs of runs; every other one begins with the pictures"""
    output: Path = ROOT / "results" / "memory-log.json"
    """where the results go"""


def main(args: Args) -> None:
    if args.quick:
        args.total_timesteps, args.pairs = 4_000, 1
    else:
        check_output(args.output)
    torch.set_num_threads(1)
    train(4_000, True)  # compiles and warms up the code that both runs need
    results: dict[str, Any] = {"machine": machine(), "env": ENV, "steps": args.total_timesteps, "pairs": []}
    for number in range(args.pairs):
        runs = {logged: train(args.total_timesteps, logged) for logged in ((True, False), (False, True))[number % 2]}
        weights = [run.pop("weights") for run in runs.values()]
        if not torch.equal(*weights):
            raise SystemExit("not reported: training with the pictures is not training without them")
        cost = runs[True]["cpu_seconds"] / runs[False]["cpu_seconds"] - 1
        results["pairs"].append({"with": runs[True], "without": runs[False], "cost": cost})
        print(f"pair {number + 1}: {cost:+.2%}, {runs[True]['share']:.2%} of it drawing", flush=True)
    results["largest_share"] = max(pair["with"]["share"] for pair in results["pairs"])
    results["median_cost"] = statistics.median(pair["cost"] for pair in results["pairs"])
    if args.quick:
        print(json.dumps(results, indent=1))
        return
    write_results(args.output, results)
    publish(args.output, report)


def train(steps: int, logged: bool) -> dict[str, Any]:
    """Train from the first step to the last, with the settings of train/agent.py for this environment."""
    env = make_vec_env(ENV, 64, seed=0)
    kwargs = {"core": "fast_weights", "hidden_size": 128, "critic_core": "shared"}
    options: dict[str, Any] = {"n_steps": 15, "n_epochs": 1, "batch_size": None, "gamma": 1.0, "gae_lambda": 1.0}
    model = MemoryPPO(
        *("MemoryPolicy", env),
        **options,
        **{"learning_rate": 1e-3, "vf_coef": 0.05, "max_grad_norm": 0.1, "seed": 0, "policy_kwargs": kwargs},
    )
    pictures = Timed(gym.make(ENV, render_mode="rgb_array"), 0, max(1, steps // 20))
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(run_logger(Path(folder)))
        wall, cpu = time.perf_counter(), time.process_time()
        model.learn(steps, callback=pictures if logged else None, log_interval=max(1, steps // (64 * 15) // 200))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        model.logger.close()
    return {
        **{"seconds": wall, "cpu_seconds": cpu, "drawn": pictures.drawn, "share": pictures.drawing / cpu},
        "weights": torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach(),
    }


def report(results: dict[str, Any]) -> None:
    """Write the section of docs/performance.md."""
    facts = results["machine"]
    rows = [
        (
            str(number),
            *(f"{pair[which]['cpu_seconds']:.1f}" for which in ("without", "with")),
            *(str(pair["with"]["drawn"]), f"{pair['cost']:+.2%}", f"{pair['with']['share']:.2%}"),
        )
        for number, pair in enumerate(results["pairs"], 1)
    ]
    head = ("pair", "seconds without", "seconds with", "times drawn", "cost", "of it drawing")
    said = (
        f"`{facts['command']}` on {facts['cpu']}, {facts['cores']} cores, commit {facts['commit']}, {facts['date']},"
        f" load average at the start {facts['load_average'][0]:.1f}; {results['steps']:,} steps of {results['env']} a"
        f" run, processor seconds. Median cost {results['median_cost']:+.2%}, largest share spent drawing"
        f" {results['largest_share']:.2%}."
    )
    write_section(DOCUMENT, SECTION, f"{said}\n\n{table(head, rows)}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
