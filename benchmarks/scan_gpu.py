"""The scan on a GPU; what ``benchmarks/scan.py --device cuda`` runs, which writes results/scan-cuda.json.

Against cuDNN's ``torch.nn.LSTM`` and the eager reference, forward and backward; as captured in a CUDA graph; and
MemoryPPO on the GPU against itself on the CPU. Nothing is timed if the scan is not right.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from itertools import product
from statistics import geometric_mean
from typing import Any

import torch
from torch import nn
from triton.runtime.errors import OutOfResources

import agent
import measuring
import scan
from flops import scan_flops
from fwagents.cores import FastWeights
from fwagents.runs.cli import fail
from measuring import paired_medians, table

NUM_ENVS = (64, 512, 4096)
EAGER_NUMBERS = 2e9  # of all the A that the eager form keeps, several times over
LAUNCHES_COUNT = 1 << 25  # T B R up to which starting the kernels may count
Call = Callable[[], Any]


def measure(args: scan.Args) -> Iterator[dict[str, Any]]:
    """Yield what there is after every cell: who is cut off keeps what was measured."""
    if args.device == "cuda" and not torch.cuda.is_available():
        fail("--device is cuda, expected cpu: there is no CUDA device")
    scan.check(scan.FAMILIES["fast_weights"], args.device)
    limit = limits(args.device)
    results: dict[str, Any] = {"machine": measuring.machine() | gpu(), "limits": limit, "grid": [], "agents": []}
    for T, B, R in measuring.progress(list(product(*scan.grid(args))), "forward and backward"):
        results["grid"].append(sequence_cell(args, T, B, R) | {"floor": floor(T, B, R, limit)})
        yield results
    num_envs, repeats = (NUM_ENVS[:1], 1) if args.quick else (NUM_ENVS, 5)
    for n in measuring.progress(num_envs, "agents"):
        results["agents"].append(agent_cell(args.device, n, repeats))
        yield results


def gpu() -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "triton": version("triton"),
        "lstm_tf32": torch.backends.cudnn.allow_tf32,
    }


def limits(device: str) -> dict[str, float]:
    """Float32 operations and bytes a second, of a large product (without TF32) and of a large copy."""
    a, b = torch.randn(2, 8192, 8192, device=device)
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    multiplied, copied = medians([lambda: a @ b, lambda: target.copy_(source)], 2.0)
    return {"gemm_flops": 2 * len(a) ** 3 / multiplied, "copy_bytes": 8 * len(source) / copied}


def finished(call: Call) -> None:
    """Call, and wait for the device."""
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def medians(calls: list[Call], seconds: float) -> list[float]:
    """Median seconds of each call, until the device is done."""
    return paired_medians([partial(finished, call) for call in calls], seconds, least=5)


def captured(call: Call) -> Call | None:
    """The replay of a CUDA graph of the call; None where that cannot be captured, or finds no room."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
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


def timed(seconds: float, *calls: Call | None) -> list[float | None]:
    """Median seconds; None for every call where one is None or does not fit into the memory."""
    if any(call is None for call in calls):
        return [None] * len(calls)
    try:
        return [*medians([call for call in calls if call], seconds)]
    except (torch.OutOfMemoryError, OutOfResources):  # of the device, or of a multiprocessor
        return [None] * len(calls)
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def sequence_cell(args: scan.Args, T: int, B: int, R: int) -> dict[str, Any]:
    """Forward and backward, in seconds; None where it does not fit into the memory, or was not tried."""
    modules = FastWeights(scan.D, R), nn.LSTM(scan.D, R), FastWeights(scan.D, R, backend="torch")
    x, gradient = torch.randn(T, B, scan.D, device=args.device), torch.randn(T, B, R, device=args.device)

    def train(module: nn.Module) -> None:
        module.zero_grad(set_to_none=True)
        module(x)[0].backward(gradient)

    core, lstm, eager = (partial(train, module.to(args.device)) for module in modules)
    ours, theirs = timed(args.seconds, core, lstm)
    slow = timed(args.seconds, eager)[0] if T * B * R * R <= EAGER_NUMBERS else None
    graphs: list[float | None] = [None, None]
    if args.device == "cuda" and ours is not None and T * B * R <= LAUNCHES_COUNT:
        graphs = timed(args.seconds, captured(core), captured(lstm))
    names = ("T", "B", "R", "seconds", "against", "eager", "captured", "against_captured")
    return dict(zip(names, (T, B, R, ours, theirs, slow, *graphs), strict=True))


def floor(T: int, B: int, R: int, limit: Mapping[str, float]) -> dict[str, float]:
    """Seconds that no program could do without: for what must be read and written, and for the operations.

    x twice, y written and read, the gradient at y, the final A.
    """
    numbers = T * B * (2 * scan.D + 3 * R) + B * R * R
    flops = scan_flops(FastWeights(scan.D, R), T, B)
    return {"bytes": 4 * numbers / limit["copy_bytes"], "flops": flops / limit["gemm_flops"]}


def agent_cell(device: str, num_envs: int, repeats: int) -> dict[str, Any]:
    """Environment steps a second of MemoryPPO on both devices, rollout and update together."""
    args, case = agent.Args(), agent.Case("PartialCatch-v0", num_envs)
    kind, steps = agent.Agent("MemoryPPO", "fast_weights", "shared"), case.n_steps * num_envs
    models = [agent.make(kind, args, case, side) for side in ("cpu", device)]
    calls = [partial(finished, partial(model.learn, steps, reset_num_timesteps=False)) for model in models]
    on_cpu, on_gpu = paired_medians(calls, least=repeats, most=repeats)
    return {"num_envs": num_envs, "env": case.env, "cpu": steps / on_cpu, "cuda": steps / on_gpu}


def sections(results: dict[str, Any]) -> dict[str, str]:
    facts, limit = results["machine"], results["limits"]
    cells = [c for c in results["grid"] if c["seconds"] and c["against"]]
    worst = max(cells, key=lambda c: c["seconds"] / c["against"])
    faster = [c["num_envs"] for c in results["agents"] if c["cuda"] > c["cpu"]]

    def mean(ours: str, theirs: str) -> str:
        found = [c[ours] / c[theirs] for c in cells if c[ours] and c[theirs]]
        return f"{geometric_mean(found):.2f}" if found else "none"

    def entry(c: Mapping[str, Any]) -> str:
        if not c["seconds"] or not c["against"]:
            return "does not fit"
        return f"{c['seconds'] / c['against']:.2f} ({max(c['floor'].values()) / c['seconds']:.0%})"

    rows = [
        ("time / LSTM time, geometric mean", mean("seconds", "against"), "0.5"),
        (
            f"worst cell (T={worst['T']}, B={worst['B']}, R={worst['R']})",
            *(f"{worst['seconds'] / worst['against']:.2f}", "1.0"),
        ),
        ("cells above 1.0", f"{sum(c['seconds'] > c['against'] for c in cells)} of {len(cells)}", "0"),
        ("cells that do not fit into the memory", len(results["grid"]) - len(cells), ""),
        ("the same, both captured in CUDA graphs, the smaller cells", mean("captured", "against_captured"), ""),
        ("times faster than eager, geometric mean", mean("eager", "seconds"), ""),
        ("environments from which MemoryPPO is faster on the GPU", min(faster, default="none of those"), ""),
    ]
    agents = [
        (c["num_envs"], f"{c['cuda']:,.0f}", f"{c['cpu']:,.0f}", f"{c['cuda'] / c['cpu']:.2f}")
        for c in results["agents"]
    ]
    versions = [f"{name} {facts[key]}" for name, key in (("CUDA", "cuda"), ("cuDNN", "cudnn"), ("torch", "torch"))]
    parts = [
        f"{measuring.provenance(facts, facts['gpu'], *versions, 'Triton ' + facts['triton'])}; the LSTM"
        f" {'with' if facts['lstm_tf32'] else 'without'} TF32, which is torch's default, the scan in plain float32.",
        table(("what", "measured", "target"), rows),
        "Fast-weights time over cuDNN's LSTM time, forward and backward; in parentheses the share of the floor, which"
        f" is the longer of the bytes at {limit['copy_bytes'] / 1e9:,.0f} GB/s and the operations at"
        f" {limit['gemm_flops'] / 1e12:.1f} TFlop/s, both as measured.",
        scan.grid_table("R", results["grid"], entry),
        "Environment steps per second of MemoryPPO, rollout and update together, on `PartialCatch-v0`.",
        table(("environments", "GPU", "CPU", "ratio"), agents),
    ]
    return {"scan-cuda": "\n\n".join(parts)}
