"""Common functions of the benchmarks: paired medians, facts about the machine, tables in a document."""

import datetime
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fwagents.files import replacing
from fwagents.machine import commit, cpu_model

ROOT = Path(__file__).parent.parent


def paired_medians(calls: Sequence[Callable[[], Any]], seconds: float, least: int = 3, most: int = 300) -> list[float]:
    """Return each call's median seconds. The calls take turns, so other load affects all; the first round warms up."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < most):
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in times]


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def gemm_flops(n: int = 1024, seconds: float = 1.0) -> float:
    """Return the operations per second of a float32 product of n x n matrices, by the faster of torch's two libraries.

    ``torch.mm`` uses MKL, which is limited to AVX2 on some processors that have AVX-512; oneDNN is not.
    """
    a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
    products: list[Callable[[], Any]] = [lambda: torch.mm(a, b, out=out)]
    if torch.backends.mkldnn.is_available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return 2 * n**3 / min(paired_medians(products, seconds))


def copy_bytes(n: int = 1 << 26) -> float:
    """Return the bytes per second, read and written, of a copy far larger than the caches."""
    source, target = torch.randn(n), torch.empty(n)
    return 8 * n / paired_medians([lambda: target.copy_(source)], 1.0)[0]


def machine() -> dict[str, Any]:
    """Return the facts about the machine that a reader needs to judge the numbers."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": version("numba"),
        "commit": commit(ROOT),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "load_average": list(os.getloadavg()),
        "command": " ".join(["python", *sys.argv]),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def check_output(output: Path) -> None:
    """Exit with code 2 if the file holds the results of another command, which would be replaced."""
    if not output.exists():
        return
    try:
        made = json.loads(output.read_text())["machine"]["command"]
    except (OSError, ValueError, KeyError, TypeError):
        made = ""
    if _options(made.split()) != _options(["python", *sys.argv]):
        print(
            f"error: {output} holds {f'the results of {made}' if made else 'something else'}, expected those of this "
            "command: give another --output, or remove it",
            file=sys.stderr,
        )
        sys.exit(2)


def _options(command: Sequence[str]) -> tuple[str, list[str]]:
    """Return the script's name and its options, without ``--output``."""
    words = [word for word in command[2:] if not word.startswith("--output=")]
    while "--output" in words:
        place = words.index("--output")
        del words[place : place + 2]
    return "".join(Path(word).name for word in command[1:2]), words


def publish(output: Path, report: Callable[[Any], None]) -> None:
    """Write the documentation from results in the folder ``results``; print the path of all others.

    Args:
        output: file of the results.
        report: function that writes the documentation.
    """
    if output.resolve().parent == ROOT / "results":
        report(json.loads(output.read_text()))
    else:
        print(f"Results: {output}. The documentation shows those in {ROOT / 'results'} alone.")


def write_results(path: Path, results: Any) -> None:
    """Write results as JSON; the file is complete or unchanged."""
    with replacing(path) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())


def write_section(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the document's markers of that name."""
    begin, end = f"<!-- {name}: written by a command, do not edit -->", f"<!-- end of {name} -->"
    old = document.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"{document} has no section {name!r}")
    document.write_text(old[: old.index(begin) + len(begin)] + f"\n{text}\n" + old[old.index(end) :])
