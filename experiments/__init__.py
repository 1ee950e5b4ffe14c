"""The experiments behind docs/results.md, a file each: its cells, its section and its figure.

``python -m experiments`` runs and writes them. An experiment is a file of this folder that has ``CELLS`` and a function
``section(results, figures)``; ``PAGE`` names its page if that is not results.md.
"""

from pathlib import Path

EXPERIMENTS = tuple(
    sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\ndef section(" in path.read_text())
)
