"""Facts about the machine and the code that a number was measured with."""

import os
import platform
import subprocess
from pathlib import Path


def cpu_model() -> str:
    """The processor's name."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu() -> str:
    """The processor's name and how many cores of it there are."""
    return f"{cpu_model()}, {os.cpu_count()} cores"


def commit(folder: Path) -> str | None:
    """The short commit of a checkout, with ``+changes`` if what it tracks, other than results and documents, differs.

    Args:
        folder: any inside the checkout; None is returned if it is in none.
    """
    head = _git(folder, "rev-parse", "--short", "HEAD")
    code = (":/", ":(top,exclude)results", ":(top,exclude)docs")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{head}{'+changes' if changed else ''}" if head else None


def _git(folder: Path, *words: str) -> str:
    try:
        found = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return ""
    return found.stdout.strip()
