"""Measure the import time of the package and of torch, in fresh interpreters that take turns.

python benchmarks/imports.py            writes results/imports.json and a section of docs/performance.md
python benchmarks/imports.py --quick    one round; prints the results, writes nothing
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from measuring import ROOT, check_output, machine, paired_medians, publish, table, write_results, write_section

DOCUMENT, SECTION = ROOT / "docs" / "performance.md", "imports"
# The modules to import, each in its own interpreter; the first interpreter imports nothing.
MODULES = ("", "fwagents", "torch", "fwagents.cores", "fwagents.envs", "fwagents.sb3")


@dataclass
class Args:
    """Measure imports."""

    quick: bool = False
    """one round; prints the results and writes nothing"""
    rounds: int = 10
    """interpreters started for each module"""
    output: Path = ROOT / "results" / "imports.json"
    """where the results go"""


def interpreter(module: str) -> Callable[[], Any]:
    """Return a function that starts an interpreter, which imports a module and ends."""
    command = [sys.executable, "-c", f"import {module}" if module else ""]
    return lambda: subprocess.run(command, check=True)


def main(args: Args) -> None:
    if not args.quick:
        check_output(args.output)
    rounds = 1 if args.quick else args.rounds
    begin = time.perf_counter()
    seconds = paired_medians([interpreter(module) for module in MODULES], 0.0, least=rounds)
    bare = seconds[0]
    results = {
        "machine": machine(),
        "rounds": rounds,
        "took": time.perf_counter() - begin,
        "seconds": {module: taken - bare for module, taken in zip(MODULES[1:], seconds[1:], strict=True)},
    }
    if args.quick:
        print(json.dumps(results, indent=1))
        return
    write_results(args.output, results)
    publish(args.output, report)


def report(results: dict[str, Any]) -> None:
    facts = results["machine"]
    said = (
        f"`{facts['command']}` on {facts['cpu']}, {facts['cores']} cores, commit {facts['commit']}, {facts['date']};"
        f" medians of {results['rounds']} fresh interpreters each, taken in turns, less those of an empty one."
    )
    rows = [(f"`import {module}`", f"{taken:.3f}") for module, taken in results["seconds"].items()]
    write_section(DOCUMENT, SECTION, said + "\n\n" + table(("", "seconds"), rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
