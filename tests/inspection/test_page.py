"""The page of an episode: its data against the trace's, and its markup. No browser is needed."""

import base64
import html
import io
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from fwagents.cores import make_core
from fwagents.inspection import trace
from fwagents.inspection.film import observation_names_of
from fwagents.inspection.page import page
from fwagents.sb3 import MemoryPPO

from ..sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES
from .test_episodes import agent
from .test_film import episode

HOSTILE = ["</script><script>alert(1)</script>", "<!--<script>", "&lt;\u2028'\"{{ style }}"]


class Markup(HTMLParser):
    """The elements of a page as a browser's parser finds them: (tag, attributes), and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]

    def data(self):
        """Return the data that the page's script reads."""
        (place,) = [n for n, (_, attributes) in enumerate(self.found) if attributes.get("id") == "data"]
        return json.loads(self.texts[place])


def data_of(text):
    return Markup(text).data()


def picture(data, place):
    """A picture of the page as an array."""
    kind, _, content = data["pictures"][place].partition(";base64,")
    assert kind == "data:image/webp"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


SPACES = [*(("vector", action) for action in ACTION_SPACES), *((obs, "discrete") for obs in OBSERVATION_SPACES)]


@pytest.mark.parametrize(("obs", "action"), SPACES)
def test_the_numbers_are_those_of_the_trace(obs, action):
    model, env = agent(obs=obs, action=action, core="rotary_fast_weights", core_kwargs={"num_heads": 2})
    seen = trace(model, env, episodes=2, seed=1, deterministic=False)
    data = data_of(seen.to_html(fps=2.5))
    assert (data["core"], data["fps"], len(data["episodes"])) == (seen.core, 2.5, 2)
    close = {"rtol": 1e-5, "atol": 1e-9}
    for b, shown in enumerate(data["episodes"]):
        T = int(seen.length[b])
        assert shown["steps"] == T
        for name in ("rewards", "values", "probabilities", "means", "deviations"):
            array = getattr(seen, name)
            assert (shown[name] is None) == (array is None)
            if array is not None:
                np.testing.assert_allclose(shown[name], array[:T, b], **close)
        np.testing.assert_allclose(shown["actions"], seen.actions[:T, b].reshape(T, -1), **close)
        counts = {"box": None, "discrete": [3], "multi_discrete": [2, 3], "multi_binary": [1, 1, 1]}[action]
        assert (shown["choices"] and [len(names) for names in shown["choices"]]) == counts
        assert (shown["looks"]["exact"], shown["looks"]["own"]) == (True, True)
        for t, heads in enumerate(shown["looks"]["shares"]):
            sizes = np.abs(seen.attention[t, b, :, -1, : t + 1])
            sizes = sizes * np.linalg.norm(seen.written[: t + 1, b], axis=-1).T
            np.testing.assert_allclose(np.array(heads) / 1e6, sizes / sizes.sum(), rtol=1e-5, atol=6e-7)
        parts = seen.observations if isinstance(seen.observations, dict) else {None: seen.observations}
        assert [part["name"] for part in shown["sights"]] == list(parts)
        for part, array in zip(shown["sights"], parts.values(), strict=True):
            if "numbers" in part:
                np.testing.assert_allclose(part["numbers"], array[:T, b].reshape(T, -1), **close)
                assert len(part["names"]) == len(part["numbers"][0])
            else:
                assert picture(data, part["pictures"][T - 1]).shape[:2] == array.shape[2:4]


def test_the_screens_are_exact():
    env = gym.make("PartialCatch-v0", render_mode="rgb_array")
    model = MemoryPPO("MemoryPolicy", env, n_steps=15, policy_kwargs={"hidden_size": 8})
    seen = trace(model, env, seed=0)
    data = data_of(seen.to_html())
    (shown,) = data["episodes"]
    assert len(shown["screens"]) == 16
    for place, screen in zip(shown["screens"], seen.screens[:, 0], strict=True):
        np.testing.assert_array_equal(picture(data, place), screen)
    (part,) = shown["sights"]
    for place, screen in zip(part["pictures"], seen.observations[:, 0], strict=True):
        np.testing.assert_array_equal(picture(data, place)[..., 0] > 127, screen.reshape(16, 16) > 0)
    assert len(set(part["pictures"][3:])) == 1, "a picture that is seen again is held once"


def test_a_photograph_is_small_and_close():
    smooth = np.random.default_rng(0).normal(size=(4, 1, 64, 64, 3)).cumsum(2).cumsum(3)
    noisy = (smooth - smooth.min()) / np.ptp(smooth) * 235 + np.random.default_rng(1).uniform(0, 20, smooth.shape)
    screens = noisy.astype(np.uint8).repeat(10, 2).repeat(16, 3)
    data = data_of(episode(screens=screens).to_html())
    assert max(map(len, data["pictures"])) < 100_000
    shown = picture(data, data["episodes"][0]["screens"][1])
    assert shown.shape == (320, 512, 3)
    exact = np.asarray(Image.fromarray(screens[1, 0]).resize((512, 320)))
    assert np.abs(shown.astype(int) - exact).mean() < 10


def test_without_attention_the_attribution_is_shown():
    attribution = np.array([[[1.0, 0, 0]], [[1, 3, 0]], [[0, 0, 2]]])
    (shown,) = data_of(episode(attention=None, attribution=attribution).to_html())["episodes"]
    assert shown["looks"] == {
        **{"exact": False, "own": False},
        "shares": [[[1_000_000]], [[250_000, 750_000]], [[0, 0, 1_000_000]]],
    }
    assert data_of(episode(attention=None).to_html())["episodes"][0]["looks"] is None


def test_a_core_alone():
    x = torch.randn(5, 2, 3)
    data = data_of(trace(make_core("fast_weights", 3, 4), x).to_html())
    assert (data["title"], len(data["episodes"])) == ("FastWeights", 2)
    for b, shown in enumerate(data["episodes"]):
        (part,) = shown["sights"]
        np.testing.assert_allclose(part["numbers"], x[:, b], rtol=1e-5)
        assert (part["name"], shown["actions"], shown["screens"]) == ("input", None, None)


def test_the_numbers_of_an_observation_have_the_environment_s_names():
    names = observation_names_of(gym.make("CartPoleNoVel-v1"))
    (shown,) = data_of(episode(observations=np.ones((3, 1, 2))).to_html(observation_names=names))["episodes"]
    assert shown["sights"][0]["names"] == ["cart position", "pole angle"]
    (shown,) = data_of(episode(observations=np.ones((3, 1, 3))).to_html(observation_names=names))["episodes"]
    assert shown["sights"][0]["names"] == ["1", "2", "3"]
    assert observation_names_of(gym.make("CartPole-v1")) is None


def test_what_is_not_finite_is_left_out():
    (shown,) = data_of(episode(values=np.array([[math.nan], [math.inf], [2]])).to_html())["episodes"]
    assert shown["values"] == [None, None, 2]


def hostile():
    """A page each of whose strings may be taken for markup."""
    observations = {name: np.ones((3, 1, 2)) for name in HOSTILE}
    screens = np.array([[text] for text in (*HOSTILE, "\x1b[41mend\x1b[0m")])
    seen = episode(screens=screens, observations=observations, choices=np.array([3]))
    return seen.to_html(title=HOSTILE[0], action_names=HOSTILE, observation_names=HOSTILE[1:])


def test_no_string_is_taken_for_markup():
    markup, harmless = Markup(hostile()), Markup(episode().to_html())
    assert [tag for tag, _ in markup.found] == [tag for tag, _ in harmless.found]
    data = markup.data()
    (shown,) = data["episodes"]
    assert (data["title"], shown["choices"], shown["screens"][:3]) == (HOSTILE[0], [HOSTILE], HOSTILE)
    assert [part["name"] for part in shown["sights"]] == HOSTILE
    assert all(part["names"] == HOSTILE[1:] for part in shown["sights"])


def test_it_needs_no_network():
    text = episode().to_html()
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", text)
    policy = next(attributes for attributes in Markup(text).all("meta") if "http-equiv" in attributes)
    assert "default-src 'none'; img-src data:;" in policy["content"]


def test_every_control_has_a_name_and_every_reference_a_target():
    markup = Markup(episode().to_html())
    ids = Counter(attributes["id"] for _, attributes in markup.found if "id" in attributes)
    assert set(ids.values()) == {1}
    for _, attributes in markup.found:
        for name in ("aria-labelledby", "for"):
            assert attributes.get(name, "data") in ids
    (slider,) = markup.all("input")
    assert (slider["type"], slider["aria-label"]) == ("range", "Step")
    labelled = {"play", "theme"}  # by their text, which the script writes
    assert all("aria-label" in button or button["id"] in labelled for button in markup.all("button"))


def test_a_notebook_shows_it_in_a_frame_of_its_own():
    text = hostile()
    markup = Markup(text._repr_html_())
    ((tag, attributes),) = markup.found
    assert (tag, attributes["srcdoc"]) == ("iframe", text)
    assert attributes["title"]
    assert html.unescape(text._repr_html_()).count(text) == 1


def test_what_is_no_page():
    with pytest.raises(ValueError, match="traces is empty"):
        page([])
    with pytest.raises(ValueError, match="fps is 0, expected a number above 0"):
        episode().to_html(fps=0)
    with pytest.raises(ValueError, match=r"action_names are \['left'\], expected 3 names"):
        episode(choices=np.array([3])).to_html(action_names=["left"])
