"""Time the scan on a GPU: ``benchmarks/scan.py --device cuda`` runs this and writes results/scan-cuda.json.

It times forward and backward against cuDNN's ``torch.nn.LSTM`` and the eager reference, also captured in a CUDA graph,
and MemoryPPO on the GPU against the CPU. Nothing is timed unless the scan passes a check.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from triton.runtime.errors import OutOfResources

import agent
import scan
from fwagents.cores import FastWeights
from measuring import (
    check_output,
    geometric_mean,
    machine,
    paired_medians,
    publish,
    table,
    write_results,
    write_section,
)

STEPS, BATCHES, SIZES = (16, 64, 256, 1024), (64, 512, 4096), (64, 128, 256)
NUM_ENVS = (64, 512, 4096)
EAGER_NUMBERS = 2e9  # elements of all A that the eager form keeps, several times over
DEVICE = "cuda"
Call = Callable[[], Any]


def main(quick: bool, report_only: bool, seconds: float, out: Path) -> None:
    console = Console(stderr=True)
    if not report_only:
        if not quick:
            check_output(out)
        if not torch.cuda.is_available():
            raise SystemExit("not timed: there is no CUDA device")
        check()
        # The results are written after every cell, so that an interrupted run keeps them.
        results = measure(quick, seconds, console, lambda results: None if quick else write_results(out, results))
        if quick:
            console.print(json.dumps(summary(results), indent=1))
            return
    publish(out, report)


def check() -> None:
    """Raise SystemExit unless outputs and gradients equal the reference's in float64."""
    for T, B, R, options in ((63, 5, 37, {}), (257, 4, 128, {"decay": 0.9}), (70, 6, 256, {"inner_steps": 3})):
        torch.manual_seed(0)
        core = FastWeights(scan.D, R, **options).to(DEVICE)
        x = torch.randn(T, B, scan.D, device=DEVICE)
        start = torch.rand(T, B, device=DEVICE) < 1 / scan.EPISODE
        reference = FastWeights(scan.D, R, **options, backend="torch").double().to(DEVICE)
        truth = scan.outcome(reference, core, x.double(), start)
        for name, value in scan.outcome(core, core, x, start).items():
            error = (value.double() - truth[name]).abs().max() / truth[name].abs().max()
            if not error < 1e-4:
                raise SystemExit(f"not timed: {name} is off by {error:.1e} at T={T}, B={B}, R={R}, {options}")


def measure(quick: bool, seconds: float, console: Console, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure all cells; ``keep`` gets the results so far after each cell."""
    grid = [(T, B, R) for T in STEPS for B in BATCHES for R in SIZES]
    if quick:
        grid = [(T, B, R) for T, B, R in grid if T <= 64 and B <= 512 and R == 128]
    results: dict[str, Any] = {"machine": machine() | gpu(), "limits": limits(), "grid": [], "agents": []}

    def add(part: str, cell: dict[str, Any]) -> None:
        results[part].append(cell)
        keep(results)

    for place in track(grid, "forward and backward", console=console):
        add("grid", sequence_cell(*place, seconds, results["limits"]))
    num_envs, repeats = (NUM_ENVS[:1], 1) if quick else (NUM_ENVS, 5)
    for n in track(num_envs, "agents", console=console):
        add("agents", agent_cell(n, repeats))
    return results


def gpu() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if cuda else "none",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": version("triton"),
        "lstm_tf32": torch.backends.cudnn.allow_tf32,
    }


def limits() -> dict[str, float]:
    """Return the float32 operations per second of a large product (without TF32) and the bytes per second of a copy."""
    a, b = torch.randn(2, 8192, 8192, device=DEVICE)
    source = torch.randn(1 << 28, device=DEVICE)
    target = torch.empty_like(source)
    product, copy = medians([lambda: a @ b, lambda: target.copy_(source)], 2.0)
    return {"gemm_flops": 2 * len(a) ** 3 / product, "copy_bytes": 8 * len(source) / copy}


def synchronise() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def medians(calls: list[Call], seconds: float) -> list[float]:
    """Return the median seconds of each call, including the device's work."""

    def finished(call: Call) -> Call:
        def run() -> None:
            call()
            synchronise()

        return run

    return paired_medians([finished(call) for call in calls], seconds, least=5)


def captured(call: Call) -> Call | None:
    """Return the replay of a CUDA graph of the call; None if the call cannot be captured or memory runs out."""
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        return None
    return graph.replay


def sequence_cell(T: int, B: int, R: int, seconds: float, limit: dict[str, float]) -> dict[str, Any]:
    """Return the seconds of a forward and backward pass; None if it does not fit into memory, or was not tried."""
    core, lstm = FastWeights(scan.D, R).to(DEVICE), nn.LSTM(scan.D, R).to(DEVICE)
    eager = FastWeights(scan.D, R, backend="torch").to(DEVICE)
    x, gradient = torch.randn(T, B, scan.D, device=DEVICE), torch.randn(T, B, R, device=DEVICE)

    def training(module: nn.Module) -> Call:
        def run() -> None:
            module.zero_grad(set_to_none=True)
            module(x)[0].backward(gradient)

        return run

    def timed(*calls: Call | None) -> list[float | None]:
        if any(call is None for call in calls):
            return [None] * len(calls)
        try:
            return [*medians([call for call in calls if call], seconds)]
        except (torch.OutOfMemoryError, OutOfResources):  # of the device, or of a multiprocessor
            return [None] * len(calls)
        finally:
            gc.collect()
            torch.cuda.empty_cache()

    ours, theirs = timed(training(core), training(lstm))
    slow = timed(training(eager))[0] if T * B * R * R <= EAGER_NUMBERS else None
    cell = {"T": T, "B": B, "R": R, "seconds": ours, "against": theirs, "eager": slow}
    cell |= {"captured": None, "against_captured": None}
    if DEVICE == "cuda" and ours is not None and T * B * R <= 1 << 25:  # small enough for kernel launches to matter
        cell["captured"], cell["against_captured"] = timed(captured(training(core)), captured(training(lstm)))
    return cell | {"floor": floor(T, B, R, limit)}


def floor(T: int, B: int, R: int, limit: dict[str, float]) -> dict[str, float]:
    """Return the least seconds that any program needs for its memory traffic, and for its operations.

    The traffic is x twice, y written and read, the gradient of y, and the final A.
    """
    numbers = T * B * (2 * scan.D + 3 * R) + B * R * R
    flops = scan.scan_flops(T, B, R, 1)
    return {"bytes": 4 * numbers / limit["copy_bytes"], "flops": flops / limit["gemm_flops"]}


def agent_cell(num_envs: int, repeats: int) -> dict[str, Any]:
    """Return MemoryPPO's environment steps per second on both devices, rollout and update together."""
    args = agent.Args(num_envs=(num_envs,))
    speeds = {}
    for device in ("cpu", DEVICE):
        kind = agent.Agent("MemoryPPO", "fast_weights", "shared", "native")
        model, taken = agent.make(kind, args, args.envs[0], num_envs, device), []
        for turn in range(1 + repeats):
            begin = time.perf_counter()
            model.learn(args.n_steps * num_envs, reset_num_timesteps=turn == 0)
            synchronise()
            taken.append(time.perf_counter() - begin)
        speeds[device] = args.n_steps * num_envs / statistics.median(taken[1:])
    return {"num_envs": num_envs, "env": args.envs[0], **speeds}


def summary(results: dict[str, Any]) -> dict[str, Any]:
    cells = [c for c in results["grid"] if c["seconds"] and c["against"]]
    graphs = [c for c in cells if c["captured"] and c["against_captured"]]
    eager = [c for c in cells if c["eager"]]
    faster = [c["num_envs"] for c in results["agents"] if c[DEVICE] > c["cpu"]]
    return {
        "lstm_ratio": geometric_mean(c["seconds"] / c["against"] for c in cells),
        "lstm_worst": max(cells, key=lambda c: c["seconds"] / c["against"]),
        "cells_above_1": sum(c["seconds"] > c["against"] for c in cells),
        "cells": len(cells),
        "left_out": len(results["grid"]) - len(cells),
        "captured_ratio": geometric_mean(c["captured"] / c["against_captured"] for c in graphs) if graphs else None,
        "eager_speedup": geometric_mean(c["eager"] / c["seconds"] for c in eager) if eager else None,
        "crossover": min(faster, default=None),
    }


def share(cell: dict[str, Any]) -> float:
    """Return the floor as a share of the time taken."""
    return max(cell["floor"].values()) / cell["seconds"]


def report(results: dict[str, Any]) -> None:
    """Write the tables of docs/performance.md."""
    facts, limit, s = results["machine"], results["limits"], summary(results)
    worst = s["lstm_worst"]
    where = f"T={worst['T']}, B={worst['B']}, R={worst['R']}"

    def number(x: float | None) -> str:
        return "none" if x is None else f"{x:.2f}"

    rows = [
        ("time / LSTM time, geometric mean", number(s["lstm_ratio"]), "0.5"),
        (f"worst cell ({where})", number(worst["seconds"] / worst["against"]), "1.0"),
        ("cells above 1.0", f"{s['cells_above_1']} of {s['cells']}", "0"),
        ("cells that do not fit into the memory", s["left_out"], ""),
        ("the same, both captured in CUDA graphs, the smaller cells", number(s["captured_ratio"]), ""),
        ("times faster than eager, geometric mean", number(s["eager_speedup"]), ""),
        ("environments from which MemoryPPO is faster on the GPU", s["crossover"] or "none of those", ""),
    ]
    by_place = {(c["T"], c["B"], c["R"]): c for c in results["grid"]}

    def entry(c: dict[str, Any]) -> str:
        if not c["seconds"] or not c["against"]:
            return "does not fit"
        return f"{c['seconds'] / c['against']:.2f} ({share(c):.0%})"

    places = sorted({key[:2] for key in by_place})
    sizes = sorted({key[2] for key in by_place})
    grid = [(f"T={T}, B={B}", *(entry(by_place[T, B, R]) for R in sizes)) for T, B in places]
    agents = [
        (c["num_envs"], f"{c[DEVICE]:,.0f}", f"{c['cpu']:,.0f}", f"{c[DEVICE] / c['cpu']:.2f}")
        for c in results["agents"]
    ]
    parts = [
        f"`{facts['command']}` on {facts['gpu']}, CUDA {facts['cuda']}, cuDNN {facts['cudnn']}, torch {facts['torch']},"
        f" Triton {facts['triton']}, commit {facts['commit']}, {facts['date']}; the LSTM"
        f" {'with' if facts['lstm_tf32'] else 'without'} TF32, which is torch's default, the scan in plain float32.",
        table(("what", "measured", "target"), rows),
        "Fast-weights time over cuDNN's LSTM time, forward and backward; in parentheses the share of the floor, which"
        f" is the longer of the bytes at {limit['copy_bytes'] / 1e9:,.0f} GB/s and the operations at"
        f" {limit['gemm_flops'] / 1e12:.1f} TFlop/s, both as measured.",
        table(("", *(f"R={R}" for R in sizes)), grid),
        "Environment steps per second of MemoryPPO, rollout and update together, on `PartialCatch-v0`.",
        table(("environments", "GPU", "CPU", "ratio"), agents),
    ]
    write_section(scan.DOCUMENT, "scan-cuda", "\n\n".join(parts))
