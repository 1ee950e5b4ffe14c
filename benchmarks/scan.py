"""Time the fused scan, forward and backward, against ``torch.nn.LSTM`` and against the eager reference.

    python benchmarks/scan.py                writes results/scan-cpu.json and the tables in docs/performance.md
    python benchmarks/scan.py --quick        a few cells, to look at; writes nothing
    python benchmarks/scan.py --start-up     only the first call of a process, added to the results
    python benchmarks/scan.py --report       only makes the tables from the stored results
    python benchmarks/scan.py --device cuda  the same on a GPU, see scan_gpu.py; writes results/scan-cuda.json

Nothing is timed unless the scan passes a check.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from fwagents.cores import FastWeights
from measuring import (
    ROOT,
    check_output,
    copy_bytes,
    gemm_flops,
    geometric_mean,
    machine,
    paired_medians,
    publish,
    table,
    write_results,
    write_section,
)

D = 100
STEPS, BATCHES, SIZES = (11, 24, 64, 128, 256, 1024), (16, 128), (20, 50, 100, 128, 200, 256)
STEP_BATCHES = (1, 16, 64, 256)
EPISODE = 16
EAGER_NUMBERS = 6e7  # elements of all A that the eager form keeps; more do not fit into memory, or take minutes
FIRST_CALL = """
import time, torch
from fwagents.cores import FastWeights
core, x = FastWeights(8, 32), torch.randn(4, 4, 8)
begin = time.perf_counter()
core(x)[0].sum().backward()
print(time.perf_counter() - begin)
"""
DOCUMENT = ROOT / "docs" / "performance.md"


@dataclass
class Args:
    """Time the fused scan."""

    device: Literal["cpu", "cuda"] = "cpu"
    """where the scan runs"""
    quick: bool = False
    """a few cells only; nothing is written"""
    start_up: bool = False
    """time only the first call of a process, with an empty cache folder and with a full one"""
    report: bool = False
    """time nothing, make the tables from the results"""
    threads: tuple[int, ...] = (1, 2)
    """thread counts of the main grid; everything else is timed on one thread"""
    seconds: float = 0.5
    """least time spent on a cell, if it is small"""
    output: Path | None = None
    """where the results go; scan-cpu.json or scan-cuda.json in results/ if not given"""


def main(args: Args) -> None:
    args.output = args.output or ROOT / "results" / f"scan-{args.device}.json"
    if args.device == "cuda":
        import scan_gpu

        scan_gpu.main(args.quick, args.report, args.seconds, args.output)
        return
    console = Console(stderr=True)
    if args.start_up:
        results = json.loads(args.output.read_text()) | {"start_up": start_up()}
        write_results(args.output, results)
    elif not args.report:
        if not args.quick:
            check_output(args.output)
        check()
        results = measure(args, console)
        console.print(summary_text(results))
        if args.quick:
            return
        write_results(args.output, results)
    publish(args.output, report)


def check() -> None:
    """Raise SystemExit unless outputs and gradients equal the reference's in float64."""
    for T, B, R, options in ((63, 5, 37, {}), (257, 4, 64, {"decay": 0.9}), (24, 6, 100, {"inner_steps": 3})):
        torch.manual_seed(0)
        core = FastWeights(D, R, **options)
        x, start = torch.randn(T, B, D), torch.rand(T, B) < 1 / EPISODE
        truth = outcome(FastWeights(D, R, **options, backend="torch").double(), core, x.double(), start)
        for name, value in outcome(FastWeights(D, R, **options), core, x, start).items():
            error = (value.double() - truth[name]).abs().max() / truth[name].abs().max()
            if not error < 1e-4:
                raise SystemExit(f"not timed: {name} is off by {error:.1e} at T={T}, B={B}, R={R}, {options}")


def outcome(core: FastWeights, like: FastWeights, x: Tensor, start: Tensor) -> dict[str, Tensor]:
    core.load_state_dict(like.state_dict())
    y, (h, A) = core(x, None, start)
    (y.square().sum() + h.sum() + A.square().sum()).backward()
    return {"y": y, "h": h, "A": A} | {name: p.grad for name, p in core.named_parameters() if p.grad is not None}


def measure(args: Args, console: Console) -> dict[str, Any]:
    quick = args.quick
    grid = [(T, B, R) for T in STEPS for B in BATCHES for R in SIZES]
    if quick:
        grid = [(T, B, R) for T, B, R in grid if B == 16 and R in (20, 128) and T in (11, 128, 256)]
    few = [(T, B, R) for T, B, R in grid if quick or (R in (50, 128, 256) and T >= 64)]
    results: dict[str, Any] = {"machine": machine(), "limits": [], "grid": []}
    for threads in args.threads:
        torch.set_num_threads(threads)
        results["limits"].append({"threads": threads, "gemm_flops": gemm_flops(), "copy_bytes": copy_bytes()})
        for T, B, R in track(grid, f"forward and backward, {threads} threads", console=console):
            results["grid"].append({"threads": threads} | sequence_cell(T, B, R, args.seconds))
    torch.set_num_threads(1)
    results["inner_steps_3"] = [
        sequence_cell(*cell, args.seconds, inner_steps=3) for cell in track(few, "three inner steps", console=console)
    ]
    results["episodes"] = [
        episode_cell(*cell, args.seconds) for cell in track(few, "an episode every 16 steps", console=console)
    ]
    results["eager"] = [
        eager_cell(T, B, R)
        for T, B, R in track(grid, "against eager", console=console)
        if T * B * R * R <= EAGER_NUMBERS
    ]
    results["flatness"] = [flatness_cell(R) for R in track((64, 128), "long sequences", console=console)]
    sizes = (20, 128) if quick else SIZES
    results["step"] = [
        step_cell(B, R, args.seconds) for R in track(sizes, "single steps", console=console) for B in STEP_BATCHES
    ]
    results["summary"] = summary(results)
    return results


def sequence_cell(T: int, B: int, R: int, seconds: float, inner_steps: int = 1) -> dict[str, Any]:
    """Time the forward and backward pass of a whole sequence."""
    core, lstm = FastWeights(D, R, inner_steps=inner_steps), nn.LSTM(D, R)
    x, gradient = torch.randn(T, B, D), torch.randn(T, B, R)
    ours, theirs = paired_medians(
        [lambda: core(x)[0].backward(gradient), lambda: lstm(x)[0].backward(gradient)], seconds
    )
    return cell(T, B, R, ours, theirs) | {"flops": scan_flops(T, B, R, inner_steps)}


def cell(T: int, B: int, R: int, ours: float, theirs: float) -> dict[str, Any]:
    return {"T": T, "B": B, "R": R, "seconds": ours, "against": theirs, "ratio": ours / theirs}


def scan_flops(T: int, B: int, R: int, inner_steps: int) -> float:
    """Count the cell's operations if every read attends to its whole past, or costs R^2 if that is less."""
    keys = min((T - 1) / 2, R)
    products = 2 * D * R + 3 * R * R  # C x and its gradient; W h, its gradient and W's
    reads = inner_steps * (2 + 5) * keys * R  # two passes over the keys forward, five backward
    return 2.0 * T * B * (products + reads)


def episode_cell(T: int, B: int, R: int, seconds: float) -> dict[str, Any]:
    """Time episodes of 16 steps that begin at another step in each row; the LSTM resets in a loop, or pads episodes."""
    core, lstm = FastWeights(D, R), nn.LSTM(D, R)
    x, gradient = torch.randn(T, B, D), torch.randn(T, B, R)
    start = (torch.arange(T).unsqueeze(1) + torch.arange(B)) % EPISODE == 0
    cuts = sorted({0, *start.any(1).nonzero().flatten().tolist(), T})
    pieces = [
        (t, b, min(t + EPISODE, T) if t % EPISODE == (-b) % EPISODE else min(t + (-b - t) % EPISODE, T))
        for b in range(B)
        for t in sorted({0, *range((-b) % EPISODE, T, EPISODE)})
    ]
    where = torch.full((EPISODE, len(pieces)), T * B)
    for i, (t, b, end) in enumerate(pieces):
        where[: end - t, i] = torch.arange(t, end) * B + b

    def loop() -> None:
        h = c = torch.zeros(1, B, R)
        ys = []
        for begin, end in pairwise(cuts):
            fresh = start[begin].view(1, B, 1)
            h, c = h.masked_fill(fresh, 0.0), c.masked_fill(fresh, 0.0)
            y, (h, c) = lstm(x[begin:end], (h, c))
            ys.append(y)
        torch.cat(ys).backward(gradient)

    def padded() -> None:
        rows = torch.cat([x.view(T * B, D), x.new_zeros(1, D)])[where]
        y = lstm(rows)[0].flatten(0, 1)
        x.new_zeros(T * B + 1, R).index_add(0, where.flatten(), y)[:-1].view(T, B, R).backward(gradient)

    ours, looped, in_pads = paired_medians([lambda: core(x, None, start)[0].backward(gradient), loop, padded], seconds)
    best = min(looped, in_pads)
    return cell(T, B, R, ours, best) | {"baseline": "reset loop" if best == looped else "padded episodes"}


def eager_cell(T: int, B: int, R: int) -> dict[str, Any]:
    """Time the scan against our own reference in eager torch."""
    core, eager = FastWeights(D, R), FastWeights(D, R, backend="torch")
    x, gradient = torch.randn(T, B, D), torch.randn(T, B, R)
    calls = [lambda: core(x)[0].backward(gradient), lambda: eager(x)[0].backward(gradient)]
    ours, theirs = paired_medians(calls, 0.0, least=3)
    return cell(T, B, R, ours, theirs)


def flatness_cell(R: int) -> dict[str, Any]:
    """Time a step of a long sequence against a step of a short one."""
    core = FastWeights(D, R)
    data = {T: (torch.randn(T, 16, D), torch.randn(T, 16, R)) for T in (64, 4096)}
    short, long = paired_medians([lambda x=x, g=g: core(x)[0].backward(g) for x, g in data.values()], 6.0, least=5)
    return {"R": R, "B": 16, "T=64": short / 64, "T=4096": long / 4096, "ratio": long / 4096 / (short / 64)}


def start_up() -> dict[str, Any]:
    """Time the first forward and backward pass of a process: with compilation, then with kernels loaded from disk."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        compiled, *loaded = (
            float(subprocess.run([sys.executable, "-c", FIRST_CALL], env=environment, stdout=-1, check=True).stdout)
            for _ in range(4)
        )
    return {"compiling": compiled, "loading": statistics.median(loaded), "machine": machine()}


@torch.no_grad()
def step_cell(B: int, R: int, seconds: float) -> dict[str, Any]:
    """Time one step without autograd, as in a rollout; also ``core.step``, which passes A from step to step."""
    core, lstm = FastWeights(D, R), nn.LSTMCell(D, R)
    x, h, c = torch.randn(B, D), torch.randn(B, R), torch.randn(B, R)
    stepper, state = core.stepper(B), core.initial_state(B)
    calls = [lambda: stepper.step(x), lambda: lstm(x, (h, c)), lambda: core.step(x, state)]
    ours, theirs, functional = paired_medians(calls, seconds, most=3000)
    return {"B": B, "R": R, "seconds": ours, "against": theirs, "ratio": ours / theirs, "functional": functional}


def summary(results: dict[str, Any]) -> dict[str, Any]:
    grid, steps = results["grid"], [c for c in results["step"] if c["R"] <= 128]
    worst = max(grid, key=lambda c: c["ratio"])
    return {
        "lstm_ratio": geometric_mean(c["ratio"] for c in grid),
        "lstm_ratio_by_threads": {
            str(n): geometric_mean(c["ratio"] for c in grid if c["threads"] == n)
            for n in sorted({c["threads"] for c in grid})
        },
        "lstm_worst": worst,
        "lstm_cells_above_1": sum(c["ratio"] > 1 for c in grid),
        "cells": len(grid),
        "inner_steps_3_ratio": geometric_mean(c["ratio"] for c in results["inner_steps_3"]),
        "episodes_ratio": geometric_mean(c["ratio"] for c in results["episodes"]),
        "eager_speedup": geometric_mean(1 / c["ratio"] for c in results["eager"]),
        "flatness": max(c["ratio"] for c in results["flatness"]),
        "step_ratio": geometric_mean(c["ratio"] for c in steps),
        "step_worst": max(steps, key=lambda c: c["ratio"]),
    }


def summary_rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    s = results["summary"]
    worst, step = s["lstm_worst"], s["step_worst"]
    where = f"T={worst['T']}, B={worst['B']}, R={worst['R']}, {worst['threads']} thread(s)"
    functional = geometric_mean(c["functional"] / c["against"] for c in results["step"] if c["R"] <= 128)
    first, eager = results.get("start_up"), len(results["eager"])
    return [
        *(
            [
                ("first call of a process, compiling, seconds", f"{first['compiling']:.1f}", "20"),
                ("first call of a process, from the disk, seconds", f"{first['loading']:.2f}", "1"),
            ]
            if first
            else []
        ),
        ("time / LSTM time, geometric mean", f"{s['lstm_ratio']:.2f}", "0.5"),
        *((f"the same, {n} thread(s) only", f"{ratio:.2f}", "") for n, ratio in s["lstm_ratio_by_threads"].items()),
        (f"worst cell ({where})", f"{worst['ratio']:.2f}", "1.0"),
        ("cells above 1.0", f"{s['lstm_cells_above_1']} of {s['cells']}", "0"),
        ("three inner steps / LSTM, geometric mean", f"{s['inner_steps_3_ratio']:.2f}", ""),
        ("an episode every 16 steps / LSTM, geometric mean", f"{s['episodes_ratio']:.2f}", ""),
        (
            f"times faster than eager, geometric mean of {eager} cells",
            f"{s['eager_speedup']:.1f}",
            "20",
        ),
        ("time per step, T=4096 / T=64, worst of R=64 and 128", f"{s['flatness']:.2f}", "1.3"),
        ("core.stepper / LSTMCell up to R=128, geometric mean", f"{s['step_ratio']:.2f}", ""),
        ("core.step / LSTMCell up to R=128, geometric mean", f"{functional:.2f}", ""),
        (f"worst of core.stepper (B={step['B']}, R={step['R']})", f"{step['ratio']:.2f}", "1.0"),
    ]


def summary_text(results: dict[str, Any]) -> str:
    return "\n".join(
        f"{name}: {value}" + (f" (target {target})" if target else "") for name, value, target in summary_rows(results)
    )


def report(results: dict[str, Any]) -> None:
    """Write the tables of docs/performance.md."""
    facts = results["machine"]
    parts = [
        f"`{facts['command']}` on {facts['cpu']}, {facts['cores']} cores, torch {facts['torch']}, Numba"
        f" {facts['numba']}, commit {facts['commit']}, {facts['date']}, load average at the start"
        f" {facts['load_average'][0]:.1f}.",
        table(("what", "measured", "target"), summary_rows(results)),
    ]
    for limit in results["limits"]:
        threads = limit["threads"]
        cells = [c for c in results["grid"] if c["threads"] == threads]
        parts.append(
            f"Fast-weights time over LSTM time, forward and backward, {threads} thread(s); in parentheses the share of"
            f" the product rate ({limit['gemm_flops'] / 1e9:.0f} GFlop/s; a copy moves"
            f" {limit['copy_bytes'] / 1e9:.0f} GB/s)."
        )
        parts.append(grid_table(cells, limit["gemm_flops"]))
    rows = [
        (f"{c['R']}", c["B"], f"{1e6 * c['seconds']:.1f}", f"{1e6 * c['against']:.1f}", f"{1e6 * c['functional']:.1f}")
        for c in results["step"]
    ]
    parts += ["One step, microseconds.", table(("R", "B", "stepper", "LSTMCell", "core.step"), rows)]
    write_section(DOCUMENT, "scan-cpu", "\n\n".join(parts))


def grid_table(cells: list[dict[str, Any]], peak: float) -> str:
    def entry(T: int, B: int, R: int) -> str:
        (c,) = [c for c in cells if (c["T"], c["B"], c["R"]) == (T, B, R)]
        return f"{c['ratio']:.2f} ({c['flops'] / c['seconds'] / peak:.0%})"

    shapes = sorted({(c["T"], c["B"]) for c in cells})
    sizes = sorted({c["R"] for c in cells})
    rows = [(f"T={T}, B={B}", *(entry(T, B, R) for R in sizes)) for T, B in shapes]
    return table(("", *(f"R={R}" for R in sizes)), rows)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
