"""Measure what a user waits for: imports of the package and of torch, ``--help``, and the first environment step.

    python benchmarks/imports.py            writes results/imports.json and a section of docs/performance.md

Each measurement starts a fresh interpreter; the measurements take turns. The first round fills the caches and is not
counted.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from fwagents.runs.options import Count
from measuring import ROOT, Options, conduct, machine, options, paired_medians, provenance, table

# The modules that are imported, each in an interpreter of its own; the first is nothing.
MODULES = ("", "fwagents", "torch", "fwagents.cores", "fwagents.envs", "fwagents.sb3")
STEPPED = 3  # exit code of a process at its first environment step
# `train/agent.py --log-dir FOLDER`, the first environment step of which ends the process.
FIRST_STEP = f"""
import os, runpy, sys
from fwagents.envs.vector import GameVectorEnv
GameVectorEnv.step = lambda *_: os._exit({STEPPED})
sys.argv = ["{ROOT}/train/agent.py", "--log-dir", sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
HELP, STEP = "`train/agent.py --help`", "`train/agent.py`, to the first environment step"
TARGETS = {HELP: 1.5, STEP: 4.0}


@dataclass
class Args(Options):
    """Measure imports and starting up."""

    rounds: Count = 10
    """interpreters started for each"""


def interpreter(*words: str, code: int = 0) -> None:
    """Start one and wait for its end; SystemExit if its exit code is another."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise SystemExit(f"not timed: python {words} ends with code {done.returncode}, expected {code}\n{done.stderr}")


def measure(args: Args) -> Iterator[dict[str, Any]]:
    begin, facts = time.perf_counter(), machine()
    with tempfile.TemporaryDirectory() as folder:
        calls = [partial(interpreter, "-c", f"import {module}" if module else "") for module in MODULES]
        calls.append(partial(interpreter, f"{ROOT}/train/agent.py", "--help"))
        calls.append(partial(interpreter, "-c", FIRST_STEP, folder, code=STEPPED))
        bare, *taken = paired_medians(calls, least=args.rounds, most=args.rounds)
    imported = {module: seconds - bare for module, seconds in zip(MODULES[1:], taken, strict=False)}
    commands = dict(zip((HELP, STEP), taken[-2:], strict=True))
    took = time.perf_counter() - begin
    yield {"machine": facts, "rounds": args.rounds, "took": took, "seconds": imported, "commands": commands}


def sections(results: dict[str, Any]) -> dict[str, str]:
    said = (
        f"{provenance(results['machine'])}; medians of {results['rounds']} fresh interpreters each, taken in turns,"
        " less those of an empty one."
    )
    parts = [said, table(("", "seconds"), [(f"`import {m}`", f"{s:.3f}") for m, s in results["seconds"].items()])]
    if commands := results.get("commands"):
        rows = [(name, f"{taken:.2f}", TARGETS[name]) for name, taken in commands.items()]
        parts += ["Commands, from the shell, with full caches.", table(("", "seconds", "target"), rows)]
    return {"imports": "\n\n".join(parts)}


if __name__ == "__main__":
    args = options(Args, rounds=1)
    conduct(args, "imports", partial(measure, args), sections)
