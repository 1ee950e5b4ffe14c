"""The rendered pictures of the environments."""

import copy
import functools
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from fwagents.envs.catch import CatchEnv

from .families import BATCHED, actions

BALL, PADDLE = (240, 228, 66), (86, 180, 233)


def centre(image, size, row, column):
    """Return the colour in the middle of a cell, found by proportion."""
    border = 16
    cell = (image.shape[0] - 2 * border) / size
    return tuple(int(v) for v in image[int(border + (row + 0.5) * cell), int(border + (column + 0.5) * cell)])


@pytest.mark.parametrize("size", [2, 16, 24, 200])
def test_the_picture_shows_the_true_screen_blank_or_not(size):
    env = CatchEnv(size, visible_frames=1, paddle_width=1, render_mode="rgb_array")
    env.reset(options={"ball": 0, "paddle": size - 1})
    visible = env.render()
    assert visible.dtype == np.uint8
    assert visible.ndim == 3
    assert min(visible.shape[:2]) >= 320
    assert all(side % 2 == 0 for side in visible.shape[:2])
    observation, *_ = env.step(0)
    blank = env.render()
    assert not observation.any()
    for frame, image in ((1, visible), (2, blank)):
        assert centre(image, size, frame - 1, 0) == BALL
        assert centre(image, size, size - 1, size - 1) == PADDLE
        others = (image != BALL).any(axis=2) & (image != PADDLE).any(axis=2)
        assert others.mean() > 0.5


def test_the_picture_marks_blank_frames_and_the_end():
    borders, backgrounds = [], []
    for ball in (0, 9):
        env = CatchEnv(size=16, visible_frames=3, render_mode="rgb_array")
        env.reset(options={"ball": ball, "paddle": 0})
        images = [env.render()]
        for _ in range(15):
            env.step(0)
            images.append(env.render())
        for image in images:
            borders.append(tuple(map(tuple, np.unique(image[:8].reshape(-1, 3), axis=0).tolist())))
            backgrounds.append(tuple(map(tuple, np.unique(image[150:160, 250:300].reshape(-1, 3), axis=0).tolist())))
    caught, missed = borders[:16], borders[16:]
    # The states visible, blank, caught and missed have four borders and two backgrounds.
    assert caught[:15] == missed[:15]
    assert [len(set(part)) for part in (caught[:3], caught[3:15])] == [1, 1]
    assert len({caught[0], caught[3], caught[15], missed[15]}) == 4
    assert set(backgrounds[:3]).isdisjoint(backgrounds[3:16])


def test_a_caught_ball_shows_on_the_paddle():
    env = CatchEnv(render_mode="rgb_array")
    env.reset(options={"ball": 3, "paddle": 2})
    for _ in range(15):
        env.step(0)
    image = env.render()
    assert centre(image, 16, 15, 3) == BALL
    assert centre(image, 16, 15, 2) == PADDLE
    assert (image[-36:] == PADDLE).all(axis=2).sum() > 1.2 * (image[-36:] == BALL).all(axis=2).sum() > 0


def test_the_text():
    env = CatchEnv(size=3, visible_frames=2, render_mode="ansi")
    env.reset(options={"ball": 0, "paddle": 0})
    assert env.render() == "frame 1/3, screen visible\no..\n...\n==.\n"
    env.step(2)
    assert env.render() == "frame 2/3, screen visible\n...\no..\n.==\n"
    env.step(0)
    assert env.render() == "frame 3/3, screen blank, missed\n:::\n:::\no==\n"
    env.reset(options={"ball": 0, "paddle": 0})
    env.step(0)
    env.step(0)
    assert env.render() == "frame 3/3, screen blank, caught\n:::\n:::\n@=:\n"


WALL = (120, 120, 120)


def test_the_maze_from_above():
    env = gymnasium.make("TMaze-v0", length=2, render_mode="ansi")
    env.reset(options={"goal": 0})
    assert env.render() == "step 0 of at most 12\n##o\n=..\n##.\n"
    env.step(1)
    assert env.render() == "step 1 of at most 12\n##o\n:=:\n##:\n"
    env.step(1)
    env.step(0)
    assert env.render() == "step 3 of at most 12, right\n##@\n:::\n##:\n"
    env.reset(options={"goal": 1})
    for action in (1, 1, 0):
        env.step(action)
    assert env.render() == "step 3 of at most 12, wrong\n##=\n:::\n##o\n"
    env.reset(options={"goal": 1})
    for _ in range(12):
        env.step(0)
    assert env.render() == "step 12 of at most 12, out of time\n##.\n=..\n##o\n"

    env = gymnasium.make("TMaze-v0", length=2, render_mode="rgb_array")
    env.reset(options={"goal": 0})
    image = env.render()
    assert [centre(image, 3, row, column) for row, column in ((0, 0), (1, 0), (0, 2))] == [WALL, PADDLE, BALL]


def test_what_has_been_shown():
    env = gymnasium.make("RepeatPrevious-v0", delay=1, symbols=3, answers=2, render_mode="ansi")
    env.reset(options={"sequence": [2, 0, 0]})
    assert env.render() == "frame 1/3: 2\n...\n...\no..\n"
    env.step(0)
    assert env.render() == "frame 2/3: 20, asked for 2\n:o:\n:::\no::\n"
    env.step(2)
    env.step(1)
    assert env.render() == "frame 3/3: 200, 1 of 2 right\n.oo\n...\no..\n"

    env = gymnasium.make("MemoryChain-v0", length=3, render_mode="ansi")
    env.reset(options={"context": 1})
    for _ in range(3):
        env.step(0)
    assert env.render() == "frame 4/4: 1..?, asked for 1\n::::\no:::\n:::o\n"
    env.step(1)
    assert env.render() == "frame 4/4: 1..?, 1 of 1 right\n....\no...\n...o\n"

    env = gymnasium.make("KeyValueRecall-v0", pairs=1, render_mode="ansi")
    env.reset(options={"keys": [1], "values": [9]})
    for _ in range(4):
        env.step(0)
    caption, *rows = env.render().splitlines()
    assert caption == "frame 5/5: b9??b, asked for 9"
    assert {row: line for row, line in enumerate(rows) if "o" in line} == {1: "o:::o", 35: ":o:::", 36: "::oo:"}


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_a_batch_renders_as_its_environments_do(name, mode):
    batch = gymnasium.make_vec(name, num_envs=3, render_mode=mode)
    loop = gymnasium.make_vec(name, num_envs=3, render_mode=mode, vectorization_mode="sync")
    for env in (batch, loop):
        env.reset(seed=0)
        env.step(np.arange(3) % actions(name))
    pictures = batch.render()
    assert isinstance(pictures, tuple)
    assert len(pictures) == 3
    for one, other in zip(pictures, loop.render(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("make", [CatchEnv, functools.partial(gymnasium.make_vec, "PartialCatch-v0")])
def test_without_a_mode_there_is_a_warning(make):
    env = make()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame")
def test_the_window(monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    # With zero frames per second the window does not wait.
    monkeypatch.setitem(CatchEnv.metadata, "render_fps", 0)
    env, pictured = CatchEnv(render_mode="human"), CatchEnv(render_mode="rgb_array")
    for other in (env, pictured):
        other.reset(seed=0)
        other.step(1)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert np.array_equal(shown, pictured.render())
    assert env.render() is None
    twin = copy.deepcopy(env)
    env.close()
    env.close()
    assert not pygame.display.get_init()
    twin.step(1)
    assert pygame.display.get_init()
    twin.close()


def test_a_window_without_pygame_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(DependencyNotInstalled, match=r'pip install "fwagents\[render\]"'):
        CatchEnv(render_mode="human").reset()
