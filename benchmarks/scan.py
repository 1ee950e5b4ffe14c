"""Time of a compiled scan, forward and backward, against ``torch.nn.LSTM`` and against the same core in torch.

    python benchmarks/scan.py                        fast weights: results/scan-cpu.json, docs/performance.md
    python benchmarks/scan.py --family programmers   rotary fast weights: results/programmers-cpu.json
    python benchmarks/scan.py --device cuda          fast weights on a GPU, see scan_gpu.py: results/scan-cuda.json
    python benchmarks/scan.py --quick                a few cells, to look at; writes nothing
    python benchmarks/scan.py --report               only makes the tables again from the results

Nothing is timed if the scan is not right.
"""

import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from statistics import geometric_mean, median
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import measuring
from flops import scan_flops
from fwagents.cores import FastWeights, MemoryCore, RotaryFastWeights
from fwagents.kernels import VARIABLE
from fwagents.runs.options import Count, Norm, TakenBy, Threads, Units
from measuring import Options, conduct, machine, paired_medians, table

D = 100
STEP_BATCHES = (1, 16, 64, 256)
EPISODE = 16
TOLERANCE = 1e-4  # of the largest value
FIRST_CALL = """
import time, torch
from fwagents.cores import {core}
core, x = {core}(8, 32), torch.randn(4, 4, 8)
begin = time.perf_counter()
core(x)[0].sum().backward()
print(time.perf_counter() - begin)
"""
Grid = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Family(NamedTuple):
    """Kernels that are measured together, by the core that stands for them."""

    core: type[MemoryCore[Any]]
    units: str  # their letter in the results
    name: str  # of the results and the section
    grids: Mapping[str, Grid]  # T, B and units by device
    eager_numbers: float  # T B H^2 up to which the torch form is timed; with more it does not fit, or takes minutes
    checked: Sequence[tuple[int, int, int, dict[str, Any]]]  # T, B, units and options with which it must be right
    variants: Mapping[str, dict[str, Any]] = {}  # further options of the core that are timed against the LSTM


FAMILIES = {
    "fast_weights": Family(
        *(FastWeights, "R", "scan"),
        grids={
            "cpu": ((11, 24, 64, 128, 256, 1024), (16, 128), (20, 50, 100, 128, 200, 256)),
            "cuda": ((16, 64, 256, 1024), (64, 512, 4096), (64, 128, 256)),
        },
        eager_numbers=6e7,
        checked=(
            (63, 5, 37, {}),
            *((257, 4, R, {"decay": 0.9}) for R in (64, 128)),
            *((T, 6, R, {"inner_steps": 3}) for T, R in ((24, 100), (70, 256))),
        ),
        variants={"inner_steps_3": {"inner_steps": 3}},
    ),
    "programmers": Family(
        *(RotaryFastWeights, "H", "programmers"),
        grids={"cpu": ((11, 64, 256, 1024), (16, 128), (64, 128, 256))},
        eager_numbers=7e7,
        checked=((63, 5, 64, {}), (257, 4, 128, {}), (24, 6, 256, {})),
    ),
}


@dataclass
class Args(Options):
    """Time a compiled scan."""

    family: Literal["fast_weights", "programmers"] = "fast_weights"
    """kernels to time"""
    device: Annotated[Literal["cpu", "cuda"], TakenBy(family=("fast_weights",))] = "cpu"
    """where the scan runs"""
    T: tuple[Count, ...] | None = None
    """lengths of the main grid; None for those of the family, as for B and H"""
    B: tuple[Count, ...] | None = None
    """batch sizes"""
    H: tuple[Units, ...] | None = None
    """units"""
    threads: Annotated[tuple[Threads, ...], TakenBy(device=("cpu",))] = (1, 2)
    """thread counts of the main grid; all else is timed on one"""
    seconds: Norm = 0.5
    """least time spent on a cell, if it is small"""


def grid(args: Args) -> Grid:
    """Return the values of T, B and H."""
    T, B, H = FAMILIES[args.family].grids[args.device]
    return args.T or T, args.B or B, args.H or H


def in_torch(call: Callable[[], Any]) -> Any:
    """Call with the cores' torch form in place of their compiled scans."""
    before = os.environ.get(VARIABLE, "auto")
    os.environ[VARIABLE] = "torch"
    try:
        return call()
    finally:
        os.environ[VARIABLE] = before


def check(family: Family, device: str) -> None:
    """SystemExit unless outputs, states and gradients are those of the torch form in float64."""
    for T, B, H, given in family.checked:
        torch.manual_seed(0)
        core = family.core(D, H, **given).to(device)
        x, start = torch.randn(T, B, D, device=device), torch.rand(T, B, device=device) < 1 / EPISODE
        truth = in_torch(partial(outcome, copy.deepcopy(core).double(), x.double(), start))
        for name, value in outcome(core, x, start).items():
            error = (value.double() - truth[name]).abs().max() / truth[name].abs().max()
            if not error < TOLERANCE:
                raise SystemExit(
                    f"not timed: {name} is off by {error:.1e} at T={T}, B={B}, {family.units}={H}, {given}"
                )


def outcome(core: MemoryCore[Any], x: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Output, state, and gradients of the weights."""
    y, state = core(x, None, start)
    torch.stack([part.square().sum() for part in (y, *state)]).sum().backward()  # type: ignore[no-untyped-call]
    return {"y": y, **state._asdict(), **{name: p.grad for name, p in core.named_parameters()}}


def measure(args: Args) -> Iterator[dict[str, Any]]:
    family = FAMILIES[args.family]
    check(family, "cpu")
    Ts, Bs, Hs = grid(args)
    every, few = list(product(Ts, Bs, Hs)), list(product(Ts[-4:], Bs, Hs[1::2] or Hs))
    small = [(T, B, H) for T, B, H in every if family.eager_numbers >= T * B * H * H]
    results: dict[str, Any] = {"machine": machine(), "limits": [], "grid": []}

    def cells(name: str, cell: Callable[..., dict[str, Any]], places: Sequence[Any]) -> list[dict[str, Any]]:
        return [cell(family, args.seconds, *place) for place in measuring.progress(places, name)]

    for threads in args.threads:
        torch.set_num_threads(threads)
        results["limits"].append({"threads": threads, **measuring.product_rate()})
        found = cells(f"forward and backward, {threads} threads", sequence_cell, every)
        results["grid"] += [{"threads": threads} | cell for cell in found]
    torch.set_num_threads(1)
    for name, given in family.variants.items():
        results[name] = cells(name, partial(sequence_cell, **given), few)
    results["episodes"] = cells("an episode every 16 steps", episode_cell, few)
    results["eager"] = cells("against torch", partial(sequence_cell, eager=True), small)
    results["flatness"] = cells("long sequences", flatness_cell, [(64,), (128,)])
    results["step"] = cells("single steps", step_cell, list(product(STEP_BATCHES, Hs)))
    if not args.quick:
        results["start_up"] = start_up(family)
    yield results | {"summary": summary(family, results)}


def compared(ours: float, theirs: float, **more: Any) -> dict[str, Any]:
    return {"seconds": ours, "against": theirs, "ratio": ours / theirs, **more}


def sequence_cell(
    family: Family, seconds: float, T: int, B: int, H: int, eager: bool = False, **given: Any
) -> dict[str, Any]:
    """Forward and backward to the gradients of the weights, against an LSTM of the same width or the torch form."""
    core, lstm = family.core(D, H, **given), nn.LSTM(D, H)
    x, gradient = torch.randn(T, B, D), torch.randn(T, B, H)

    def run(module: nn.Module = core) -> None:
        module(x)[0].backward(gradient)

    other = partial(in_torch, run) if eager else partial(run, lstm)
    taken = paired_medians([run, other], 0.0 if eager else seconds)
    return {"T": T, "B": B, family.units: H} | compared(*taken, flops=float(scan_flops(core, T, B)))


def episode_cell(family: Family, seconds: float, T: int, B: int, H: int) -> dict[str, Any]:
    """An episode begins every 16 steps, in each row at another; the LSTM resets in a loop, or pads the episodes."""
    core, lstm = family.core(D, H), nn.LSTM(D, H)
    x, gradient = torch.randn(T, B, D), torch.randn(T, B, H)
    start = (torch.arange(T).unsqueeze(1) + torch.arange(B)) % EPISODE == 0
    cuts = sorted({0, *start.any(1).nonzero().flatten().tolist(), T})
    # The numbers of each episode's steps in x.view(T B, D), a column each; T B stands for padding.
    begins = [sorted({0, *range((-b) % EPISODE, T, EPISODE), T}) for b in range(B)]
    pieces = [torch.arange(t, end) * B + b for b in range(B) for t, end in pairwise(begins[b])]
    where = nn.utils.rnn.pad_sequence(pieces, padding_value=T * B)

    def loop() -> None:
        h = c = torch.zeros(1, B, H)
        ys = []
        for begin, end in pairwise(cuts):
            fresh = start[begin].view(1, B, 1)
            y, (h, c) = lstm(x[begin:end], (h.masked_fill(fresh, 0.0), c.masked_fill(fresh, 0.0)))
            ys.append(y)
        torch.cat(ys).backward(gradient)  # type: ignore[no-untyped-call]

    def padded() -> None:
        y = lstm(torch.cat([x.view(T * B, D), x.new_zeros(1, D)])[where])[0].flatten(0, 1)
        unpadded = x.new_zeros(T * B + 1, H).index_add(0, where.flatten(), y)[:-1].view(T, B, H)
        unpadded.backward(gradient)  # type: ignore[no-untyped-call]

    ours, looped, in_pads = paired_medians([lambda: core(x, None, start)[0].backward(gradient), loop, padded], seconds)
    baseline = "reset loop" if looped <= in_pads else "padded episodes"
    return {"T": T, "B": B, family.units: H} | compared(ours, min(looped, in_pads), baseline=baseline)


def flatness_cell(family: Family, seconds: float, H: int) -> dict[str, Any]:
    """Time per step of a long sequence over that of a short one."""
    core = family.core(D, H)
    data = {T: (torch.randn(T, 16, D), torch.randn(T, 16, H)) for T in (64, 4096)}
    calls = [lambda x=x, g=g: core(x)[0].backward(g) for x, g in data.values()]
    short, long = paired_medians(calls, 12 * seconds, least=5)
    return {family.units: H, "B": 16, "T=64": short / 64, "T=4096": long / 4096, "ratio": long / 4096 / (short / 64)}


@torch.no_grad()
def step_cell(family: Family, seconds: float, B: int, H: int) -> dict[str, Any]:
    """One step without autograd, as in a rollout; also ``core.step``, which hands the state over from step to step."""
    core, lstm = family.core(D, H), nn.LSTMCell(D, H)
    x, h, c = torch.randn(B, D), torch.randn(B, H), torch.randn(B, H)
    stepper, state = core.stepper(B), core.initial_state(B)
    calls = [lambda: stepper.step(x), lambda: lstm(x, (h, c)), lambda: core.step(x, state)]
    ours, theirs, functional = paired_medians(calls, seconds, most=3000)
    return {"B": B, family.units: H} | compared(ours, theirs, functional=functional)


def start_up(family: Family) -> dict[str, Any]:
    """Seconds that the first forward and backward pass of a process takes: compiling, then loading from the disk."""
    command = [sys.executable, "-c", FIRST_CALL.format(core=family.core.__name__)]
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {"NUMBA_CACHE_DIR": cache}
        taken = [float(subprocess.run(command, env=env, capture_output=True, check=True).stdout) for _ in range(4)]
    return {"compiling": taken[0], "loading": median(taken[1:]), "machine": machine()}


def summary(family: Family, results: dict[str, Any]) -> dict[str, Any]:
    cells, steps = results["grid"], rollout_steps(family, results)

    def ratio(part: Sequence[dict[str, Any]]) -> float:
        return geometric_mean(c["ratio"] for c in part)

    return {
        "lstm_ratio": ratio(cells),
        "lstm_ratio_by_threads": {
            str(n): ratio([c for c in cells if c["threads"] == n]) for n in sorted({c["threads"] for c in cells})
        },
        "lstm_worst": max(cells, key=lambda c: c["ratio"]),
        "lstm_cells_above_1": sum(c["ratio"] > 1 for c in cells),
        "cells": len(cells),
        **{f"{name}_ratio": ratio(results[name]) for name in (*family.variants, "episodes")},
        "eager_speedup": 1 / ratio(results["eager"]),
        "flatness": max(c["ratio"] for c in results["flatness"]),
        "step_ratio": ratio(steps),
        "step_worst": max(steps, key=lambda c: c["ratio"]),
    }


def rollout_steps(family: Family, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of single steps of the sizes that agents have, or all if none is that small."""
    return [c for c in results["step"] if c[family.units] <= 128] or results["step"]


def summary_rows(family: Family, results: dict[str, Any]) -> list[tuple[str, str, str]]:
    s, H, first = results["summary"], family.units, results.get("start_up", {})
    worst, step = s["lstm_worst"], s["step_worst"]
    where = f"T={worst['T']}, B={worst['B']}, {H}={worst[H]}, {worst['threads']} thread(s)"
    functional = geometric_mean(c["functional"] / c["against"] for c in rollout_steps(family, results))
    eager = f"times faster than eager, geometric mean of {len(results['eager'])} cells"
    rows = [
        ("first call of a process, compiling, seconds", first.get("compiling"), ".1f", "20"),
        ("first call of a process, from the disk, seconds", first.get("loading"), ".2f", "1"),
        ("time / LSTM time, geometric mean", s["lstm_ratio"], ".2f", "0.5"),
        *((f"the same, {n} thread(s) only", ratio, ".2f", "") for n, ratio in s["lstm_ratio_by_threads"].items()),
        (f"worst cell ({where})", worst["ratio"], ".2f", "1.0"),
        ("cells above 1.0", f"{s['lstm_cells_above_1']} of {s['cells']}", "", "0"),
        ("three inner steps / LSTM, geometric mean", s.get("inner_steps_3_ratio"), ".2f", ""),
        ("an episode every 16 steps / LSTM, geometric mean", s["episodes_ratio"], ".2f", ""),
        (eager, s["eager_speedup"], ".1f", "20"),
        (f"time per step, T=4096 / T=64, worst of {H}=64 and 128", s["flatness"], ".2f", "1.3"),
        (f"core.stepper / LSTMCell up to {H}=128, geometric mean", s["step_ratio"], ".2f", ""),
        (f"core.step / LSTMCell up to {H}=128, geometric mean", functional, ".2f", ""),
        (f"worst of core.stepper (B={step['B']}, {H}={step[H]})", step["ratio"], ".2f", "1.0"),
    ]
    return [(name, f"{value:{form}}", target) for name, value, form, target in rows if value is not None]


def sections(family: Family, results: dict[str, Any]) -> dict[str, str]:
    facts, H = results["machine"], family.units
    parts = [
        measuring.provenance(facts, f"torch {facts['torch']}", f"Numba {facts['numba']}") + ".",
        table(("what", "measured", "target"), summary_rows(family, results)),
    ]
    for limit in results["limits"]:
        peak = limit["gemm_flops"]
        parts.append(
            f"{family.core.__name__} time over LSTM time, forward and backward, {limit['threads']} thread(s); in"
            f" parentheses the share of the product rate ({peak / 1e9:.0f} GFlop/s; a copy moves"
            f" {limit['copy_bytes'] / 1e9:.0f} GB/s)."
        )
        cells = [c for c in results["grid"] if c["threads"] == limit["threads"]]
        shares = [{**c, "share": c["flops"] / c["seconds"] / peak} for c in cells]
        parts.append(grid_table(H, shares, lambda c: f"{c['ratio']:.2f} ({c['share']:.0%})"))
    steps = sorted(results["step"], key=lambda c: (c[H], c["B"]))
    rows = [(c[H], c["B"], *(f"{1e6 * c[k]:.1f}" for k in ("seconds", "against", "functional"))) for c in steps]
    parts += ["One step, microseconds.", table((H, "B", "stepper", "LSTMCell", "core.step"), rows)]
    return {f"{family.name}-cpu": "\n\n".join(parts)}


def grid_table(H: str, cells: Sequence[Mapping[str, Any]], entry: Callable[[Mapping[str, Any]], str]) -> str:
    """A row for each T and B, a column for each number of units."""
    entries = {(c["T"], c["B"], c[H]): entry(c) for c in cells}
    sizes, shapes = sorted({key[2] for key in entries}), sorted({key[:2] for key in entries})
    rows = [(f"T={T}, B={B}", *(entries[T, B, size] for size in sizes)) for T, B in shapes]
    return table(("", *(f"{H}={size}" for size in sizes)), rows)


def main() -> None:
    args = measuring.options(Args, T=(11, 128), B=(16,), H=(64, 128), seconds=0.05)
    family = FAMILIES[args.family]
    if args.device == "cuda":
        import scan_gpu

        conduct(args, "scan-cuda", partial(scan_gpu.measure, args), scan_gpu.sections)
    else:
        conduct(args, f"{family.name}-cpu", partial(measure, args), partial(sections, family))


if __name__ == "__main__":
    main()
