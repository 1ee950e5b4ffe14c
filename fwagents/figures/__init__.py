"""Figures of a memory's attention and of learning curves, for papers and web pages, in light or dark.

Each function draws arrays and returns a matplotlib figure without a window; ``save`` writes a figure. Steps are counted
from 1. Colour-blind readers can tell the colours apart. The figures need ``pip install "fwagents[figures]"``.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError('figures need matplotlib: pip install "fwagents[figures]"') from error

from fwagents.figures.comparison import learning_curves
from fwagents.figures.memory import attention_matrix, memory_growth, unit_traces
from fwagents.figures.style import PALETTES, Palette, Theme, save
from fwagents.figures.tasks import glimpse_sequence, retrieval_strings

__all__ = [
    "PALETTES",
    "Palette",
    "Theme",
    "attention_matrix",
    "glimpse_sequence",
    "learning_curves",
    "memory_growth",
    "retrieval_strings",
    "save",
    "unit_traces",
]
