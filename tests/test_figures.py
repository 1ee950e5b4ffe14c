"""Figures show the data that they are given, and are readable."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from fwagents import figures
from fwagents.cores import make_core
from fwagents.inspection import trace


def traced(core="fast_weights", rows=2, size=6, core_kwargs=None, **options):
    return trace(make_core(core, 3, size, **core_kwargs or {}), torch.randn(7, rows, 3), **options)


def strings(theme, heads=1):
    """Draw strings with the first head's weights; the second head has three times these, in reverse order."""
    weights = np.array([[[0, 1, 3, 0]], [[2, 2, 0, 0]], [[0, 0, 0, 0.0]]])
    weights = weights if heads == 1 else np.concatenate([weights, 3 * weights[..., ::-1]], 1)
    return figures.retrieval_strings(["a1?a", "b2?b", "c3?c"], weights, ["1", "2", "3"], ["1", "2", "4"], theme=theme)


def glimpses(theme, weights=None):
    boxes = [(0, 0, 4), (0, 0, 2), (2, 2, 2), (0, 4, 4)]
    weights = np.array([1, 3, 0, 0.0]) if weights is None else weights
    return figures.glimpse_sequence(np.arange(64).reshape(8, 8), boxes, weights, looks=2, title="a 7", theme=theme)


GRADIENTS = {"attribution": True, "readout": lambda y: y}
FIGURES = {
    "attention": lambda theme: figures.attention_matrix(traced(), theme=theme),
    "attention by name": lambda theme: figures.attention_matrix(traced(), names=list("c9k8??c"), theme=theme),
    "attention of heads": lambda theme: figures.attention_matrix(traced("rotary_fast_weights", size=16), theme=theme),
    "attention of five heads": lambda theme: figures.attention_matrix(
        traced("delta_net", size=10, core_kwargs={"num_heads": 5}), names=list("c9k8??c"), theme=theme
    ),
    "attribution": lambda theme: figures.attention_matrix(traced("lstm", **GRADIENTS), theme=theme),
    "units": lambda theme: figures.unit_traces(traced(), theme=theme),
    "units below zero": lambda theme: figures.unit_traces(traced("gru"), theme=theme),
    "growth": lambda theme: figures.memory_growth(traced(), theme=theme),
    "growth of heads": lambda theme: figures.memory_growth(
        traced("delta_net", size=10, core_kwargs={"num_heads": 5}), theme=theme
    ),
    "growth of one": lambda theme: figures.memory_growth(traced(rows=1), theme=theme),
    "strings": strings,
    "strings of heads": lambda theme: strings(theme, heads=2),
    "glimpses": glimpses,
    "glimpses of nothing": lambda theme: glimpses(theme, np.zeros(4)),
}


def luminance(colour):
    """Return the relative luminance as WCAG 2 defines it."""
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


def contrast(a, b):
    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", figures.PALETTES)
@pytest.mark.parametrize("name", FIGURES)
def test_everything_is_labelled_and_legible(name, theme):
    figure = FIGURES[name](theme)
    ground = figure.get_facecolor()
    assert ground == (*to_rgb(figures.PALETTES[theme].ground), 1.0)
    for axes in figure.axes:
        if axes.axison:
            shared = axes.get_xlabel() or any(
                other.get_xlabel() for other in axes.get_shared_x_axes().get_siblings(axes)
            )
            numbered = [
                any(tick.get_visible() for tick in ticks) for ticks in (axes.get_xticklabels(), axes.get_yticklabels())
            ]
            assert shared or not numbered[0] or axes.get_ylabel(), "an axis without a label"
            assert axes.get_ylabel() or not numbered[1], "an axis without a label"
    figure.canvas.draw()
    for text in figure.findobj(Text):
        if text.get_text():
            assert text.get_size() >= 9
            on_a_cell = len(text.get_text()) == 1 and text.get_size() == 13
            assert on_a_cell or contrast(text.get_color(), ground) >= 4.5, text


@pytest.mark.parametrize("theme", figures.PALETTES)
def test_ramps_are_told_by_lightness_alone(theme):
    """The order is visible without colours."""
    palette = figures.PALETTES[theme]
    steps = np.diff([luminance(colour) for colour in palette.ramp])
    assert (steps < 0).all() or (steps > 0).all()
    for colour in palette.lines:
        assert contrast(colour, palette.ground) >= 3  # the limit of WCAG 2 for graphics


@pytest.mark.parametrize(
    ("core", "options", "own"),
    [
        ("fast_weights", {"inner_steps": 2}, False),
        *((name, {"num_heads": 3}, True) for name in ("delta_net", "sum_rule")),
    ],
)
def test_attention_is_what_was_recorded(core, options, own):
    """Each head has a named panel; a part's size is |weight| |written|; a step's own write shows if it is read."""
    found = traced(core, core_kwargs=options)
    figure = figures.attention_matrix(found, 1)
    heads = found.keys.shape[2]
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == heads
    words = [text.get_text() for text in figure.findobj(Text)]
    assert any("its own write included" in word for word in words) == own
    assert any("which holds the steps before it" in word for word in words) != own
    for head, axes in enumerate(panels):
        assert (axes.get_title() == f"head {head + 1}") == (heads > 1)
        drawn = axes.images[0].get_array()
        assert axes.images[0].get_clim() == panels[0].images[0].get_clim(), "one scale"
        for t in range(7):
            for tau in range(7):
                seen = tau < t or (own and tau == t)
                assert np.ma.is_masked(drawn[t, tau]) != seen
                if seen:
                    part = found.attention[t, 1, head, -1, tau] * found.written[tau, 1, head]
                    assert drawn[t, tau] == pytest.approx(np.linalg.norm(part), rel=1e-5)


def test_units_peak_in_order():
    found = traced("gru")
    drawn = figures.unit_traces(found, 1).axes[0].images[0].get_array()
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in found.hidden[:, 1].T.tolist()}
    peaks = np.abs(drawn).argmax(1)
    assert (np.diff(peaks) >= 0).all()


@pytest.mark.parametrize(("core", "options"), [("fast_weights", {}), ("gated_delta_net", {"num_heads": 3})])
def test_growth_is_what_was_recorded(core, options):
    found = traced(core, core_kwargs=options)
    figure = figures.memory_growth(found)
    heads = found.norm.shape[2]
    for axes, values in zip(figure.axes, (found.norm, found.effective_rank), strict=True):
        lines = [line.get_ydata() for line in axes.lines]
        for head in range(heads):
            *rows, mean = lines[3 * head : 3 * head + 3]
            np.testing.assert_allclose(np.transpose(rows), values[..., head])
            np.testing.assert_allclose(mean, values[..., head].mean(1))
    named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert named == ([f"head {n + 1}" for n in range(heads)] if heads > 1 else [])


def test_strings_show_shares_and_verdicts():
    axes = strings("light").axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0, 0.25, 0.75, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]])
    words = [text.get_text() for text in axes.texts]
    assert "".join(word for word in words if len(word) == 1) == "a1?ab2?bc3?c"
    assert [word for word in words if len(word) > 1] == ["says 1, right", "says 2, right", "says 4, not 3"]


def test_strings_have_a_line_for_each_head():
    axes = strings("light", heads=2).axes[0]
    drawn = axes.images[0].get_array().filled(-1).tolist()
    assert drawn == [
        *([0, 1 / 16, 3 / 16, 0], [0, 9 / 16, 3 / 16, 0], [-1] * 4),
        *([1 / 8, 1 / 8, 0, 0], [0, 0, 3 / 8, 3 / 8], [-1] * 4),
        *([0] * 4, [0] * 4),
    ]
    names = dict(zip(axes.get_yticks(), (label.get_text() for label in axes.get_yticklabels()), strict=True))
    assert names == {0: "head 1", 1: "head 2", 3: "head 1", 4: "head 2", 6: "head 1", 7: "head 2"}
    words = [text.get_text() for text in axes.texts]
    assert "".join(word for word in words if len(word) == 1) == "a1?a" * 2 + "b2?b" * 2 + "c3?c" * 2


def test_attended_patches_are_drawn_where_they_are():
    whole, patches = glimpses("light").axes
    drawn = [(patch.get_x() + 0.5, patch.get_y() + 0.5, patch.get_width()) for patch in whole.patches]
    assert drawn == [(0, 0, 4), (0, 0, 2)]  # the strongest is drawn last
    assert [text.get_text() for text in patches.texts] == ["25%", "75%", "0%", "looks"]
    np.testing.assert_array_equal(patches.images[2].get_array(), np.arange(64).reshape(8, 8)[2:4, 2:4])
    assert "nothing" in glimpses("light", np.zeros(4)).axes[0].get_xlabel()
    own = glimpses("light", np.array([1, 0, 0, 1.0])).axes[1]
    assert [text.get_text() for text in own.texts] == ["50%", "0%", "0%", "looks, 50%"]


def test_files(tmp_path):
    for kind in ("png", "svg", "pdf"):
        for copy in ("a", "b"):
            figures.save(strings("dark"), tmp_path / f"{copy}.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf"):
        figures.save(strings("dark"), tmp_path / "a.bmp")
    with pytest.raises(ValueError, match="theme is 'blue', expected one of light, dark"):
        strings("blue")
    with pytest.raises(ValueError, match="neither attention nor attribution"):
        figures.attention_matrix(traced("lstm"))
    with pytest.raises(ValueError, match="growth=True"):
        figures.memory_growth(traced(growth=False))


def test_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import fwagents.figures"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'ImportError: figures need matplotlib: pip install "fwagents[figures]"' in failed.stderr
