"""The parts of every section of the documents that results go into: tables, and figures beside the document."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.measuring import table, write_section

__all__ = ["listed", "paragraphs", "picture", "table", "write_section"]


def listed(values: Iterable[float], form: str = ".2f") -> str:
    """Each seed's value, as text; empty if there is none."""
    return ", ".join(f"{value:{form}}" for value in values)


def picture(figures: Path, name: str, words: str) -> str:
    """A figure's place in the document that its folder stands beside; empty if there is no such figure."""
    if not (figures / f"{name}.svg").exists():
        return ""
    light, dark = f"{figures.name}/{name}.svg", f"{figures.name}/{name}-dark.svg"
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'  <img src="{light}" alt="{words}">\n</picture>'
    )


def paragraphs(parts: Iterable[str]) -> str:
    """Join the parts that are not empty, with an empty line between."""
    return "\n\n".join(part for part in parts if part)
