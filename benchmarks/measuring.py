"""Common parts of the benchmarks: options, paired timing, facts about the machine, results and their sections."""

import datetime
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track

from fwagents.files import replacing
from fwagents.machine import commit, cpu_model
from fwagents.runs.cli import fail, parse
from fwagents.runs.options import OutputFile, TakenBy

ROOT = Path(__file__).parent.parent
PERFORMANCE = ROOT / "docs" / "performance.md"
Sections = Callable[[dict[str, Any]], Mapping[str, str]]
T = TypeVar("T")


@dataclass
class Options:
    """The options of every benchmark."""

    quick: bool = False
    """smaller sizes, unless they are given, to see that it runs: prints results and tables, writes nothing"""
    report: Annotated[bool, TakenBy(quick=(False,))] = False
    """time nothing; write the section again, from the results"""
    output: Annotated[OutputFile | None, TakenBy(quick=(False,))] = None
    """where the results go, None for results/; the documentation shows only the results there"""


def options(args_type: type[T], **quick: Any) -> T:
    """Return the options of the command line; ``quick`` replaces defaults if ``--quick`` is given."""
    return parse(args_type, None, default=args_type(**quick) if "--quick" in sys.argv else None)


def conduct(
    args: Options,
    name: str,
    measure: Callable[[], Iterator[dict[str, Any]]],
    sections: Sections,
    document: Path = PERFORMANCE,
) -> None:
    """Time what ``measure`` times and show it in a document, as the options say.

    ``measure`` yields the results, which go to results/<name>.json, again and again if a part is worth keeping when the
    rest is interrupted. ``sections`` turns them into the text of each section of the document, by its name.
    """
    output = args.output or ROOT / "results" / f"{name}.json"
    if not args.report:
        if not args.quick:
            check_output(output)
        for results in measure():
            if not args.quick:
                write_results(output, results)
        if args.quick:
            print(json.dumps(results, indent=1))
            print(*sections(results).values(), sep="\n\n", file=sys.stderr)
            return
    publish(output, sections, document)


def timed(
    call: Callable[..., T], seconds: list[float], clock: Callable[[], float] = time.perf_counter
) -> Callable[..., T]:
    """Return the function, made to append the seconds of each call to a list."""

    def run(*args: Any, **kwargs: Any) -> T:
        begin = clock()
        found = call(*args, **kwargs)
        seconds.append(clock() - begin)
        return found

    return run


def in_turns(calls: Sequence[Callable[[], Any]], seconds: float, least: int, most: int, warm: int = 1) -> None:
    """Run rounds over all calls, so that all meet the same noise: ``warm`` rounds, then ``least`` rounds or more.

    No further round begins after ``seconds`` or ``most`` rounds.
    """
    for _ in range(warm):
        for call in calls:
            call()
    done, end = 0, time.perf_counter() + seconds
    while done < least or (time.perf_counter() < end and done < most):
        for call in calls:
            call()
        done += 1


def paired_medians(
    calls: Sequence[Callable[[], Any]], seconds: float = 0.0, least: int = 3, most: int = 300, warm: int = 1
) -> list[float]:
    """Median seconds of each call; see ``in_turns``."""
    taken: list[list[float]] = [[] for _ in calls]
    in_turns([timed(call, spent) for call, spent in zip(calls, taken, strict=True)], seconds, least, most, warm)
    return [statistics.median(spent[warm:]) for spent in taken]


def gemm_flops(n: int = 1024, seconds: float = 1.0) -> float:
    """Floating-point operations per second of a float32 product of two n x n matrices, by the faster of torch's two.

    ``torch.mm`` goes through MKL, which keeps to AVX2 on some processors that have AVX-512; oneDNN does not.
    """
    a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
    products: list[Callable[[], Any]] = [lambda: torch.mm(a, b, out=out)]
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return 2 * n**3 / min(paired_medians(products, seconds))


def copy_bytes(n: int = 1 << 26) -> float:
    """Bytes per second, read and written, of a copy far larger than the caches."""
    source, target = torch.randn(n), torch.empty(n)
    return 8 * n / paired_medians([lambda: target.copy_(source)], 1.0)[0]


def product_rate() -> dict[str, float]:
    """The two limits of a scan on the CPU: operations per second of a product, bytes per second of a copy."""
    return {"gemm_flops": gemm_flops(), "copy_bytes": copy_bytes()}


def progress(items: Sequence[T], words: str) -> Iterable[T]:
    """Iterate with a progress bar on standard error."""
    return track(items, words, console=Console(stderr=True))


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


def provenance(facts: Mapping[str, Any], *more: str) -> str:
    """Say how results were made, from the facts that ``machine`` returned; no full stop at the end."""
    parts = [f"`{facts['command']}` on {facts['cpu']}, {facts['cores']} cores", *more, f"commit {facts['commit']}"]
    return ", ".join([*parts, facts["date"], f"load average at the start {facts['load_average'][0]:.1f}"])


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def check_output(output: Path) -> None:
    """Leave with exit code 2 if the results of another command are there, which these would replace."""
    if not output.exists():
        return
    try:
        made = json.loads(output.read_text())["machine"]["command"]
    except (OSError, ValueError, KeyError, TypeError):
        made = ""
    if _distinctive(made) != _distinctive(" ".join(["python", *sys.argv])):
        fail(
            f"{output} holds {f'the results of {made}' if made else 'something else'}, expected those of this "
            "command: give another --output, or remove it"
        )


def _distinctive(command: str) -> str:
    """The name of the script and its options, without the place of the results."""
    return re.sub(r"^\S+ (\S*/)?| --output[ =]\S+", "", command)


def publish(output: Path, sections: Sections, document: Path = PERFORMANCE) -> None:
    """Write the sections of the document from the results in results/; see ``conduct``."""
    if output.resolve().parent != ROOT / "results":
        print(f"Results: {output}. The documentation shows those in {ROOT / 'results'} alone.")
        return
    if not output.exists():
        fail(f"{output} does not exist, expected results: run this command without --report")
    for name, text in sections(json.loads(output.read_text())).items():
        write_section(document, name, text)


def write_results(path: Path, results: Any) -> None:
    """Write results as JSON, whole or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())


def markers(name: str) -> tuple[str, str]:
    """Return the comments before and after a section that a command writes."""
    return f"<!-- {name}: written by a command, do not edit -->", f"<!-- end of {name} -->"


def write_section(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the document's markers of that name."""
    begin, end = markers(name)
    old = document.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"{document} has no section {name!r}")
    document.write_text(old[: old.index(begin) + len(begin)] + f"\n{text}\n" + old[old.index(end) :])
