"""The page of an episode in a real browser, driven as a user drives it."""

import re
import time

import numpy as np
import pytest
import torch

from fwagents.cores import make_core
from fwagents.inspection import trace
from fwagents.inspection.page import page

from ..browser import PATIENCE, Browser, missing
from .test_film import episode, of_heads
from .test_page import data_of, hostile

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def shown(browser, tmp_path):
    """A function that opens a page. In the end the console must be empty."""

    def opened(text, width=1440, scheme="light"):
        (tmp_path / "page.html").write_text(text, "utf-8")
        browser.look(width, scheme=scheme)
        browser.open((tmp_path / "page.html").as_uri())
        return browser

    yield opened
    assert browser.console() == []


def of_kinds():
    """Pages of every kind of view."""
    dicts = {"camera": np.eye(25, dtype=np.uint8)[[[0], [7], [24]]].reshape(3, 1, 5, 5), "speed": np.ones((3, 1, 2))}
    means = np.array([[[0.5, -1]], [[2, 0]], [[0, 0]]])
    attribution = np.array([[[1.0, 0, 0]], [[1, 3, 0]], [[0, 0, 2]]])
    continuous = {"probabilities": None, "means": means, "deviations": np.abs(means) + 0.1, "actions": means}
    many = {"probabilities": np.full((3, 1, 40), 1 / 40), "choices": np.array([40])}
    yield "one head", episode(choices=np.array([3])).to_html(action_names=["stay", "left", "right"])
    yield "heads", page([of_heads(), episode()], title="a_name_that_is_long_and_has_no_place_to_break_" * 2)
    yield "continuous", episode(observations=dicts, **continuous).to_html()
    yield "gradients", episode(attention=None, attribution=attribution, screens=None, **many).to_html()
    yield "text", hostile()
    yield "core", trace(make_core("fast_weights", 3, 4), torch.randn(5, 2, 3)).to_html()


KINDS = dict(of_kinds())
LEGIBLE = """
const bad = [], luminance = (rgb) => {
  const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const colour = parts(getComputedStyle(element).backgroundColor);
    if (colour.length === 3) return colour;
  }
  return null;
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
  if (!text || !element.checkVisibility() || element.closest("script, style, :disabled, noscript")) continue;
  const style = getComputedStyle(element);
  const [a, b] = [luminance(parts(style.color)), luminance(ground(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (parseFloat(style.fontSize) < 12 || contrast < 4.5) bad.push([text, style.fontSize, contrast]);
}
return {bad, ground: luminance(ground(document.body)), wide: document.documentElement.scrollWidth};
"""


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_fits_and_can_be_read(kind, width, shown):
    for scheme in ("light", "dark"):
        window = shown(KINDS[kind], width, scheme)
        for step in ("home", "right", "end"):
            window.press(step)
            found = window.run(LEGIBLE)
            assert found["bad"] == []
            assert found["wide"] == width
        assert (found["ground"] < 0.05) == (scheme == "dark")
        window.run("document.getElementById('theme').click()")
        assert (window.run(LEGIBLE)["ground"] < 0.05) != (scheme == "dark")


VIEWS = """
const text = (id) => document.getElementById(id).innerText;
const source = (id) => document.querySelector(`#${id} img`)?.src ?? null;
return {
  screen: source("screen"), sight: source("sights"),
  quantities: [...document.querySelectorAll("dd")].map((d) => d.innerText),
  actions: text("actions").split("\\n"), where: text("where"), looks: text("looks-heading"), most: text("most"),
  taken: document.querySelector(".chosen .what")?.innerText ?? null,
  bars: [...document.querySelectorAll("#heads .mark")].map((mark) => mark.getAttribute("d")),
  slider: document.getElementById("slider").getAttribute("aria-valuetext"),
  tip: document.getElementById("tip").hidden ? "" : text("tip"),
};
"""


def heights(path):
    """Return the height of each bar of a chart, by its step."""
    return {int(float(x)): float(h) for x, h in re.findall(r"M([\d.]+) 1v-([\d.]+)", path)}


@pytest.fixture
def window(shown):
    return shown(KINDS["one head"])


def test_the_slider_moves_every_view(window):
    data, views = data_of(KINDS["one head"]), []
    (told,) = data["episodes"]
    window.run("document.getElementById('slider').focus()")
    for t in range(3):
        view = window.run(VIEWS)
        views.append(view)
        assert view["screen"] == data["pictures"][told["screens"][t]]
        assert view["sight"] == data["pictures"][told["sights"][0]["pictures"][t]]
        assert view["quantities"] == [f"{told['values'][t]:+.2f}".replace("+0.00", "0.00"), "+1", f"+{t + 1}"]
        assert [float(line) for line in view["actions"] if re.match(r"\d\.\d\d$", line)] == told["probabilities"][t]
        assert view["taken"] == ["stay", "left", "right"][told["actions"][t][0]]
        assert (view["where"], view["slider"]) == (f"{t + 1} / 3", f"step {t + 1} of 3")
        assert view["looks"] == f"What step {t + 1} looked back at"
        window.press("right")
    assert [heights(view["bars"][0]).keys() for view in views] == [set(), {0}, {0, 1}]
    last = heights(views[2]["bars"][0])
    assert last[0] / last[1] == pytest.approx(3, rel=1e-3)  # 0.3 * 1 and 0.05 * 2
    assert views[2]["most"].split("\n")[:4] == ["step 1", "75\u00a0%", "step 2", "25\u00a0%"]
    end = window.run(VIEWS)
    assert (end["where"], end["bars"], end["sight"]) == ("the end", [""], None)
    assert end["screen"] == data["pictures"][told["screens"][3]]


def test_the_keys(shown):
    window = shown(episode().to_html(fps=0.01))
    window.press("end")
    assert window.run(VIEWS)["where"] == "the end"
    window.press("left", "left")
    assert window.run(VIEWS)["where"] == "2 / 3"
    window.press("home")
    window.run("document.getElementById('speed').value = 32")
    window.press("space")
    wait(window, "return document.getElementById('where').innerText === 'the end'")
    assert window.run("return document.getElementById('play').innerText") == "Play"
    window.run("document.getElementById('speed').value = 0.01; document.getElementById('play').focus()")
    window.press("space")  # the button's own key: were it the page's too, the page would pause again
    assert window.run("return document.getElementById('play').innerText") == "Pause"


def wait(window, condition):
    """Let the page go on until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not window.run(condition):
        assert time.monotonic() < deadline, condition


def test_pointing_shows_where_a_step_looked(window):
    boxes = "return [...document.querySelectorAll('.row svg')].map((e) => e.getBoundingClientRect().toJSON())"
    window.press("right", "right")
    heads, value, _ = window.run(boxes)
    window.point(heads["x"] + heads["width"] / 6, heads["y"] + 5)
    assert window.run(VIEWS)["tip"].split("\n") == ["step 1", "75\u00a0% of the look"]
    window.point(value["x"] + value["width"] / 2, value["y"] + 5)
    view = window.run(VIEWS)
    assert (view["looks"], view["where"]) == ("What step 2 looked back at", "3 / 3")
    assert heights(view["bars"][0]).keys() == {0}
    assert view["tip"].split("\n") == ["step 2", "value +1.00", "reward +1"]
    window.point(2, 2)
    view = window.run(VIEWS)
    assert (view["looks"], view["tip"]) == ("What step 3 looked back at", "")
    window.point(value["x"] + 5, value["y"] + 5, click=True)
    assert window.run(VIEWS)["where"] == "1 / 3"


def test_an_episode_is_chosen(shown):
    window = shown(KINDS["heads"])
    count = "return document.querySelectorAll('#heads .row').length"
    assert window.run(count) == 3
    window.run("const e = document.getElementById('episode'); e.value = 1; e.dispatchEvent(new Event('change'))")
    assert window.run(count) == 1


def test_a_link_names_a_step(shown, browser, tmp_path):
    window = shown(KINDS["heads"])
    window.open("about:blank")
    window.open((tmp_path / "page.html").as_uri() + "#episode=2&step=3&theme=dark")
    assert window.run(VIEWS)["where"] == "3 / 3"
    assert window.run("return document.getElementById('episode').value") == "1"
    assert window.run(LEGIBLE)["ground"] < 0.05


def test_two_cells_of_a_notebook(shown):
    window = shown("<!DOCTYPE html><h1 id='title'>cells</h1>" + 2 * KINDS["one head"]._repr_html_())
    wait(window, "return Array.from(frames).every((f) => f.document.getElementById('where')?.textContent)")
    frames = "return Array.from(frames, (f) => f.document.getElementById('where').textContent)"
    window.run("frames[1].document.getElementById('next').click()")
    assert window.run(frames) == ["1 / 3", "2 / 3"]
    wait(window, "return [...document.querySelectorAll('iframe')].every((f) => f.style.height !== '900px')")
    fits = "return Array.from(frames).every((f) => f.document.documentElement.scrollHeight <= f.innerHeight)"
    assert window.run(fits)
    assert window.run("return document.getElementById('title').innerText") == "cells"
