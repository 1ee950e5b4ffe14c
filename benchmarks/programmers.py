"""Time the fast-weight programmers' compiled scan against ``torch.nn.LSTM``, and against the same core in torch.

    python benchmarks/programmers.py           writes results/programmers-cpu.json
    python benchmarks/programmers.py --quick   a few cells, to look at; writes nothing

Nothing is timed unless the scan passes a check.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import nn

from fwagents.cores import RotaryFastWeights
from fwagents.kernels import VARIABLE
from measuring import (
    ROOT,
    check_output,
    copy_bytes,
    gemm_flops,
    geometric_mean,
    machine,
    paired_medians,
    write_results,
)

D = 100
STEPS, BATCHES, SIZES = (11, 64, 256, 1024), (16, 128), (64, 128, 256)
STEP_BATCHES = (1, 16, 64, 256)


@dataclass
class Args:
    """Time the scan of ``rotary_fast_weights``."""

    quick: bool = False
    """a few cells only; nothing is written"""
    threads: tuple[int, ...] = (1, 2)
    """thread counts of the main grid; everything else is timed on one thread"""
    seconds: float = 0.5
    """least time spent on a cell"""
    output: Path = ROOT / "results" / "programmers-cpu.json"
    """where the results go"""


def main(args: Args) -> None:
    console = Console(stderr=True)
    if not args.quick:
        check_output(args.output)
    check()
    results = measure(args, console)
    for name, value in results["summary"].items():
        console.print(f"{name}: {value}")
    if not args.quick:
        write_results(args.output, results)


@contextmanager
def in_torch() -> Iterator[None]:
    """Run the core's torch form in place of the compiled scan."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "torch"
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def check() -> None:
    """Raise SystemExit unless outputs and gradients equal the torch form's in float64."""
    for T, B, H in ((63, 5, 64), (257, 4, 128), (24, 6, 256)):
        torch.manual_seed(0)
        core = RotaryFastWeights(D, H)
        exact = copy.deepcopy(core).double()
        x, start, gradient = torch.randn(T, B, D), torch.rand(T, B) < 1 / 16, torch.randn(T, B, H)
        found, truth = (
            [y, *torch.autograd.grad(y, list(c.parameters()), gradient.to(y))]
            for c, y in ((c, c(x.to(c.taps), None, start)[0]) for c in (core, exact))
        )
        for one, other in zip(found, truth, strict=True):
            error = ((one - other).abs().max() / other.abs().max()).item()
            if not error < 1e-4:
                raise SystemExit(f"T={T}, B={B}, H={H}: off by {error:.1e} of the largest value, expected 1e-4 at most")


def measure(args: Args, console: Console) -> dict[str, Any]:
    """Measure all cells and summarise them."""
    steps, batches = ((11, 128), (16,)) if args.quick else (STEPS, BATCHES)
    results: dict[str, Any] = {"machine": machine(), "grid": [], "limits": []}
    for threads in args.threads:
        torch.set_num_threads(threads)
        limits = {"threads": threads, "gemm_flops": gemm_flops(), "copy_bytes": copy_bytes()}
        results["limits"].append(limits)
        cells = [(T, B, H) for T in steps for B in batches for H in SIZES]
        for shape in track(cells, f"{threads} thread(s)", console=console):
            results["grid"].append({"threads": threads} | scan_cell(*shape, args.seconds))
    torch.set_num_threads(1)
    results["torch"] = [torch_cell(T, 16, H) for T in steps[:2] for H in SIZES]
    results["flatness"] = [flatness_cell(H) for H in SIZES]
    results["step"] = [step_cell(B, H, args.seconds) for B in STEP_BATCHES for H in SIZES]
    results["summary"] = summary(results)
    return results


def cell(T: int, B: int, H: int, ours: float, theirs: float) -> dict[str, Any]:
    return {"T": T, "B": B, "H": H, "seconds": ours, "against": theirs, "ratio": ours / theirs}


def scan_cell(T: int, B: int, H: int, seconds: float) -> dict[str, Any]:
    """Time the forward and backward pass of a whole sequence against an LSTM of the same width."""
    core, lstm = RotaryFastWeights(D, H), nn.LSTM(D, H)
    x, gradient = torch.randn(T, B, D), torch.randn(T, B, H)
    calls = [lambda: core(x)[0].backward(gradient), lambda: lstm(x)[0].backward(gradient)]
    return cell(T, B, H, *paired_medians(calls, seconds))


def torch_cell(T: int, B: int, H: int) -> dict[str, Any]:
    """Time the same passes against the torch form of the same core."""
    core = RotaryFastWeights(D, H)
    x, gradient = torch.randn(T, B, D), torch.randn(T, B, H)

    def plain() -> None:
        with in_torch():
            core(x)[0].backward(gradient)

    return cell(T, B, H, *paired_medians([lambda: core(x)[0].backward(gradient), plain], 0.5))


def flatness_cell(H: int) -> dict[str, Any]:
    """Time a step of a long sequence against a step of a short one."""
    core = RotaryFastWeights(D, H)
    data = {T: (torch.randn(T, 16, D), torch.randn(T, 16, H)) for T in (64, 4096)}
    short, long = paired_medians([lambda x=x, g=g: core(x)[0].backward(g) for x, g in data.values()], 3.0)
    return {"H": H, "B": 16, "T=64": short / 64, "T=4096": long / 4096, "ratio": long / 4096 / (short / 64)}


@torch.no_grad()
def step_cell(B: int, H: int, seconds: float) -> dict[str, Any]:
    """Time one step without autograd, as in a rollout, against ``LSTMCell``."""
    core, lstm = RotaryFastWeights(D, H), nn.LSTMCell(D, H)
    x, state = torch.randn(B, D), (torch.randn(B, H), torch.randn(B, H))
    stepper = core.stepper(B)
    ours, theirs = paired_medians([lambda: stepper.step(x), lambda: lstm(x, state)], seconds, most=3000)
    return {"B": B, "H": H, "seconds": ours, "against": theirs, "ratio": ours / theirs}


def summary(results: dict[str, Any]) -> dict[str, Any]:
    grid = results["grid"]
    return {
        "lstm_ratio": geometric_mean(c["ratio"] for c in grid),
        "lstm_ratio_by_threads": {
            str(n): geometric_mean(c["ratio"] for c in grid if c["threads"] == n)
            for n in sorted({c["threads"] for c in grid})
        },
        "lstm_worst": max(grid, key=lambda c: c["ratio"]),
        "lstm_cells_above_1": sum(c["ratio"] > 1 for c in grid),
        "cells": len(grid),
        "torch_speedup": geometric_mean(1 / c["ratio"] for c in results["torch"]),
        "flatness": max(c["ratio"] for c in results["flatness"]),
        "step_ratio": geometric_mean(c["ratio"] for c in results["step"]),
        "step_worst": max(results["step"], key=lambda c: c["ratio"]),
    }


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
