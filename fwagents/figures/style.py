"""Style of the figures (light or dark, colour-blind-safe), and functions that write them."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from fwagents.files import replacing

Theme = Literal["light", "dark"]
LINES = ("-", "--", ":", "-.")  # styles of lines, if there are more lines than colours


class Palette(NamedTuple):
    """Colours of a theme.

    Attributes:
        ground: background.
        ink: lines and text.
        faint: axes and grid.
        lines: colour-blind-safe line colours (Okabe and Ito's).
        ramp: sequential scale from zero up, legible by its lightness alone.
        split: diverging scale from negative to positive, with two colour-blind-safe hues.
    """

    ground: str
    ink: str
    faint: str
    lines: tuple[str, ...]
    ramp: tuple[str, ...]
    split: tuple[str, ...]


PALETTES = {
    "light": Palette(
        *("#ffffff", "#1f2328", "#d0d7de", ("#0072B2", "#D55E00", "#009E73", "#CC79A7")),
        *(("#f4f6f8", "#9ecae1", "#2b7bba", "#08306b"), ("#b35806", "#fdb863", "#f4f6f8", "#6baed6", "#08519c")),
    ),
    "dark": Palette(
        *("#0d1117", "#e6edf3", "#3d444d", ("#56B4E9", "#E69F00", "#2fc79a", "#CC79A7")),
        *(("#161b22", "#7a4b00", "#E69F00", "#ffefc2"), ("#E69F00", "#7a4b00", "#161b22", "#1f5f88", "#8fd3ff")),
    ),
}


@contextmanager
def themed(theme: Theme) -> Iterator[Palette]:
    """Draw in the theme's colours within this context."""
    if theme not in PALETTES:
        raise ValueError(f"theme is {theme!r}, expected one of {', '.join(PALETTES)}")
    palette = PALETTES[theme]
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    options: Any = {
        **dict.fromkeys(inked, palette.ink),
        **{"figure.facecolor": palette.ground, "axes.facecolor": palette.ground, "axes.edgecolor": palette.faint},
        **{"font.size": 10, "axes.titlesize": 11, "grid.color": palette.faint, "grid.alpha": 0.6},
    }
    with mpl.rc_context(options):
        yield palette


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG, SVG or PDF, by the ending of ``path``; the same figure gives the same bytes."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"path is {str(path)!r}, expected a name that ends in .png, .svg or .pdf")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with replacing(path) as file, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fwagents"}):
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)


def png(figure: Figure) -> bytes:
    """Render a figure as a small PNG for a log, with relatively large text, since logs show images small."""
    content = io.BytesIO()
    width, height = figure.get_size_inches()
    figure.set_size_inches(0.75 * width, 0.75 * height)
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def ramp_of(colours: Sequence[str]) -> Colormap:
    """Return a colour scale through ``colours``; NaN is transparent."""
    return LinearSegmentedColormap.from_list("fwagents", list(colours)).with_extremes(bad=(0, 0, 0, 0))
