"""Building blocks of the documents' sections: tables, and links to figures."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.measuring import markers, table, write_section

__all__ = ["listed", "paragraphs", "picture", "put_section", "table"]


def put_section(page: Path, name: str, title: str, text: str) -> None:
    """Put ``text`` between the page's markers of that name, which a new section gets at the page's end."""
    begin, end = markers(name)
    if begin not in (before := page.read_text()):
        page.write_text(f"{before.rstrip()}\n\n## {title}\n\n{begin}\n{end}\n")
    write_section(page, name, text)


def listed(values: Iterable[float], form: str = ".2f") -> str:
    """Return each seed's value, as text; empty if there is none."""
    return ", ".join(f"{value:{form}}" for value in values)


def picture(figures: Path, name: str, words: str) -> str:
    """Return Markdown for a figure in the folder beside the document; empty if there is no such figure."""
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
