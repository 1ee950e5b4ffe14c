"""The film of an episode, checked by its pixels; films in files."""

import sys

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from fwagents.inspection import Trace, trace
from fwagents.inspection.film import CHOSEN, GAP, LINE, LOOK, MARGIN, OTHER, SIDE, STRIP, VALUE, film, looks, sight
from fwagents.inspection.video import write_video
from fwagents.sb3 import MemoryPPO


def episode(**changes) -> Trace:
    """Return a trace of three steps with two reads each, two-coloured screens, 5 x 5 observations, given weights."""
    attention = np.zeros((3, 1, 1, 2, 3))
    attention[1, 0, 0, 1] = [0.2, 0, 0]
    attention[2, 0, 0, 1] = [0.3, -0.05, 0]
    attention[2, 0, 0, 0] = [9, 9, 0]
    written = np.array([[[[1.0, 0]]], [[[0, 2]]], [[[3, 4]]]])
    screens = np.zeros((4, 1, 160, 160, 3), np.uint8)
    screens[..., :80, :, 0] = 200
    return Trace(
        **{
            **{"core": "FastWeights", "length": np.array([3]), "start": np.array([[True], [False], [False]])},
            **{"inputs": np.zeros((3, 1, 2)), "hidden": np.zeros((3, 1, 4))},
            **{"attention": attention, "written": written},
            **{"observations": np.eye(25, dtype=np.uint8)[[[0], [7], [24]]], "actions": np.array([[0], [1], [1]])},
            **{"rewards": np.ones((3, 1)), "values": np.array([[0.5], [1], [0]]), "screens": screens},
            **{"probabilities": np.array([[[1, 0, 0]], [[0.25, 0.75, 0]], [[0.2, 0.5, 0.3]]]), **changes},
        }
    )


LEGEND = LINE + GAP + 1  # pixels at the bottom


def count(picture, colour):
    """Count the pixels of a colour, outside the legend."""
    return int((picture[:-LEGEND] == np.array(colour)).all(-1).sum())


def test_the_legend_has_every_colour_in_every_picture():
    for picture in film(episode()):
        for colour in (CHOSEN, OTHER, VALUE, LOOK):
            # The mark is a square of ten pixels a side; letters have another colour.
            assert int((picture[-LEGEND:] == np.array(colour)).all(-1).sum()) == 100
        assert (picture[-LEGEND:, -GAP:] == picture[-1, -1]).all(), "the legend fits"


def test_one_picture_a_step_and_one_after_the_last():
    pictures = list(film(episode()))
    assert len(pictures) == 4
    assert len({picture.shape for picture in pictures}) == 1
    height, width, channels = pictures[0].shape
    assert (height % 2, width % 2, channels) == (0, 0, 3)
    for picture in pictures:
        assert picture[GAP + LINE + 10, GAP + 10].tolist() == [200, 0, 0]
        assert picture[GAP + LINE + SIDE - 10, GAP + 10].tolist() == [0, 0, 0]
    cell = SIDE // 5
    for picture, (row, column) in zip(pictures, [(0, 0), (1, 2), (4, 4)], strict=False):
        seen = picture[GAP + LINE :, GAP + SIDE + GAP :][:SIDE, :SIDE][cell // 2 :: cell, cell // 2 :: cell, 0]
        np.testing.assert_array_equal(seen, 255 * (np.arange(25).reshape(5, 5) == 5 * row + column))


def test_what_the_read_comes_from():
    found = episode()
    assert looks(found, 0).tolist() == [[0, 0, 0]]
    assert looks(found, 1).tolist() == [[1, 0, 0]]
    assert looks(found, 2) == pytest.approx(np.array([[0.75, 0.25, 0]]))
    pictures = list(film(found))
    assert (count(pictures[0], LOOK), count(pictures[3], LOOK)) == (0, 0)
    # The bars have equal widths; the second is a third as high as the first.
    one, two = count(pictures[1], LOOK), count(pictures[2], LOOK)
    assert two / one == pytest.approx(4 / 3, rel=0.03)


def of_heads():
    """Return the episode with three heads that read once per step, with their own write; the second writes nothing."""
    attention, written = np.zeros((3, 1, 3, 1, 3)), np.ones((3, 1, 3, 1))
    written[:, :, 1] = 0
    attention[1, 0, :, 0] = [[0, 1, 0], [5, 5, 0], [-3, 0, 0]]
    return episode(attention=attention, written=written)


def test_each_head_has_a_strip():
    found = of_heads()
    assert looks(found, 1) == pytest.approx(np.array([[0, 0.25, 0], [0, 0, 0], [0.75, 0, 0]]))
    *pictures, last = film(found)
    assert {picture.shape for picture in pictures} == {last.shape}
    assert [count(picture, LOOK) > 0 for picture in (*pictures, last)] == [False, True, False, False]
    lowest = pictures[1][-LEGEND - LINE - 3 * STRIP : -LEGEND - LINE]
    strips = [strip[2:-2] for strip in np.split(lowest, 3)]
    heads = [(strip == np.array(LOOK)).all(-1) for strip in strips]
    assert not heads[1].any()
    # The bar is a third as high as the bar of head 3, and to its right.
    assert heads[2].sum() / heads[0].sum() == pytest.approx(3, rel=0.15)
    assert heads[0].nonzero()[1].min() > heads[2].nonzero()[1].max() > GAP + MARGIN
    assert (pictures[1][-LEGEND:, -GAP:] == pictures[1][-1, -1]).all(), "the legend fits"
    for strip in strips:
        assert (strip[:, GAP : GAP + MARGIN - 4] > 200).all(-1).any(), "a name beside each strip"


def test_probabilities_are_bars():
    first, second, third, _ = film(episode(), action_names=["stay", "left", "right"])
    bars = [count(picture, OTHER) for picture in (first, second, third)]
    assert bars[1] > bars[0]  # a quarter, and nothing
    assert bars[2] - bars[0] == pytest.approx(2 * (bars[1] - bars[0]), rel=0.1)  # a fifth and three tenths


def test_without_attention_the_attribution_is_shown():
    attribution = np.array([[[1.0, 0, 0]], [[1, 3, 0]], [[0, 0, 2]]])
    assert looks(episode(attention=None, attribution=attribution), 1) == pytest.approx(np.array([[0.25, 0.75, 0]]))
    assert looks(episode(attention=None), 1).tolist() == [[0, 0, 0]]
    assert len(list(film(episode(attention=None)))) == 4


@pytest.mark.parametrize(
    ("observation", "shape"),
    [
        (np.float32([1, -2]), (2,)),
        (np.int64(3), (1,)),
        (np.zeros(256), (16, 16)),
        (np.zeros(30), (5, 6)),
        (np.zeros((36, 48, 3), np.uint8), (36, 48, 3)),
        (np.zeros((3, 36, 48), np.uint8), (36, 48, 3)),
        (np.zeros((4, 84, 84), np.uint8), (84, 84)),
        (np.zeros((36, 36, 1), np.uint8), (36, 36)),
        (np.zeros((8, 9)), (8, 9)),
        ({"a": np.zeros(3), "b": np.int64(1)}, (4,)),
        ({"a": np.zeros(3), "b": np.zeros((8, 9))}, (8, 9)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else "",
)
def test_anything_that_can_be_seen(observation, shape):
    def steps(value):
        return np.stack([value] * 3)[:, None]

    dicts = isinstance(observation, dict)
    seen = {key: steps(value) for key, value in observation.items()} if dicts else steps(observation)
    assert sight(seen, 1).shape == shape
    assert len(list(film(episode(observations=seen)))) == 4


@pytest.mark.parametrize("actions", [(), (2,)], ids=["discrete", "several"])
@pytest.mark.parametrize("probabilities", [None, 3, 30])
def test_any_actions(actions, probabilities):
    shares = None if probabilities is None else np.full((3, 1, probabilities), 1 / probabilities)
    assert len(list(film(episode(actions=np.ones((3, 1, *actions)), probabilities=shares)))) == 4


def test_needs_pictures():
    with pytest.raises(ValueError, match="rgb_array"):
        next(film(episode(screens=None)))
    with pytest.raises(ValueError, match="rgb_array"):
        next(film(episode(screens=np.full((4, 1), "text"))))


def test_of_an_agent_and_into_files(tmp_path):
    env = gym.make("PartialCatch-v0", size=5, visible_frames=2, render_mode="rgb_array")
    model = MemoryPPO("MemoryPolicy", env, n_steps=4, policy_kwargs={"hidden_size": 8})
    pictures = list(film(trace(model, env, episodes=2, seed=1), 1))
    env.reset(seed=2)
    np.testing.assert_array_equal(pictures[0][GAP + LINE + 160, GAP + 160], env.render()[160, 160])
    write_video(pictures, tmp_path / "sub" / "play.gif", 5)
    with Image.open(tmp_path / "sub" / "play.gif") as gif:
        assert (gif.n_frames, gif.size) == (5, pictures[0].shape[1::-1])
        assert gif.info["duration"] == 200
        first = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(first - pictures[0]).mean() < 3


def test_mp4(tmp_path):
    """The film is read back by the same library, one grey level per frame; codecs round."""
    write_video((np.full((48, 64, 3), 50 * n, np.uint8) for n in range(5)), tmp_path / "play.mp4", 5)
    read = imageio_ffmpeg.read_frames(str(tmp_path / "play.mp4"))
    about = next(read)
    assert (about["size"], about["fps"]) == ((64, 48), 5)
    assert [np.frombuffer(picture, np.uint8).mean() for picture in read] == pytest.approx([0, 50, 100, 150, 200], abs=4)
    assert [path.name for path in tmp_path.iterdir()] == ["play.mp4"]


def test_files_of_no_known_kind(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        write_video([], tmp_path / "play.avi", 5)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r'pip install "fwagents\[video\]"'):
        write_video([], tmp_path / "play.mp4", 5)
