"""The rules of Catch against a plain second implementation, and its reference policies against the closed forms."""

import functools

import gymnasium
import numpy as np
import pytest

from fwagents.envs import ENVIRONMENTS, reference_returns
from fwagents.envs.catch import CatchEnv, CatchVectorEnv, returns

REGISTERED = [tuple(e.kwargs.values()) for e in ENVIRONMENTS.values() if "catch" in e.tags]
SETTINGS = [*REGISTERED, (2, 1, 1), (2, 2, 2), (5, 2, 1), (6, 6, 3), (9, 4, 2), (7, 3, 7), (12, 1, 4)]


@pytest.mark.parametrize(("size", "visible_frames", "paddle_width"), SETTINGS)
def test_the_game_is_the_one_described(size, visible_frames, paddle_width):
    env = CatchEnv(size, visible_frames, paddle_width)
    rng = np.random.default_rng(0)
    for _ in range(20):
        ball, left = int(rng.integers(size)), int(rng.integers(size - paddle_width + 1))
        observation, info = env.reset(options={"ball": ball, "paddle": left})
        for frame in range(1, size + 1):
            screen = [[0] * size for _ in range(size)]
            if frame <= (visible_frames or size):
                screen[frame - 1][ball] = 1
                for column in range(left, left + paddle_width):
                    screen[size - 1][column] = 1
            assert observation.reshape(size, size).tolist() == screen
            if frame == size:
                break
            assert info == {}
            # Repeating one action reaches the walls.
            action = int(rng.integers(3)) if frame % 3 else 1 + frame // 3 % 2
            observation, reward, terminated, truncated, info = env.step(action)
            left = min(max(left + (0, -1, 1)[action], 0), size - paddle_width)
            assert terminated == (frame + 1 == size)
            assert not truncated
            caught = ball in range(left, left + paddle_width)
            assert reward == ((1 if caught else -1) if terminated else 0)
        assert info == {"is_success": caught}
        assert type(info["is_success"]) is bool


def every_start(size, visible_frames, paddle_width):
    """Return a batch with one environment for every position of ball and paddle, and its first observations."""
    ball, paddle = np.meshgrid(np.arange(size), np.arange(size - paddle_width + 1))
    env = CatchVectorEnv(ball.size, size=size, visible_frames=visible_frames, paddle_width=paddle_width)
    observation, _ = env.reset(options={"ball": ball.ravel(), "paddle": paddle.ravel()})
    return env, observation.reshape(-1, size, size)


def toward(ball, left, width):
    return np.where(ball < left, 1, np.where(ball >= left + width, 2, 0))


def look(screen):
    """Return whether a ball is above the bottom row, its column, and the column of the paddle's left end."""
    above = screen[:, :-1].any(axis=1)
    return above.any(axis=1), above.argmax(axis=1), screen[:, -1].argmax(axis=1)


@pytest.mark.parametrize(("size", "visible_frames", "paddle_width"), SETTINGS)
def test_perfect_memory_always_wins(size, visible_frames, paddle_width):
    env, screen = every_start(size, visible_frames, paddle_width)
    _, ball, left = look(screen)
    for _ in range(size - 1):
        action = toward(ball, left, paddle_width)
        left = left + np.array([0, -1, 1])[action]
        _, rewards, terminations, _, infos = env.step(action)
    assert terminations.all()
    assert (rewards == returns(size, visible_frames, paddle_width).optimal).all()
    assert infos["is_success"].all()


@pytest.mark.parametrize(("size", "visible_frames", "paddle_width"), SETTINGS)
def test_without_memory_the_return_is_the_closed_form(size, visible_frames, paddle_width):
    env, screen = every_start(size, visible_frames, paddle_width)
    for _ in range(size - 1):
        seen, ball, left = look(screen)
        observation, rewards, terminations, _, _ = env.step(np.where(seen, toward(ball, left, paddle_width), 0))
        screen = observation.reshape(-1, size, size)
    assert terminations.all()
    assert rewards.mean() == pytest.approx(returns(size, visible_frames, paddle_width).memoryless, abs=1e-12)


@pytest.mark.parametrize(("size", "visible_frames", "paddle_width"), SETTINGS)
def test_no_memoryless_policy_does_better(size, visible_frames, paddle_width):
    # On blank screens a memoryless policy can only repeat one distribution over actions. While it sees the ball, it can
    # move to the best position for that.
    seen = min(visible_frames or size, size - 1)
    places = np.arange(size - paddle_width + 1)
    covers = (np.arange(size) >= places[:, None]) & (np.arange(size) < places[:, None] + paddle_width)
    grid = np.linspace(0, 1, 11)
    best = -1.0
    for left, right in ((a, b) for a in grid for b in grid if a + b <= 1):
        drift = np.zeros((len(places), len(places)))
        for to, probability in ((places, 1 - left - right), (places - 1, left), (places + 1, right)):
            np.add.at(drift, (places, to.clip(0, places[-1])), probability)
        catch = np.linalg.matrix_power(drift, size - 1 - seen) @ covers
        reached = [catch[max(0, p - seen) : p + seen + 1].max(axis=0) for p in places]
        best = max(best, 2 * np.mean(reached) - 1)
    assert best == pytest.approx(returns(size, visible_frames, paddle_width).memoryless, abs=1e-12)


@pytest.mark.parametrize("name", [name for name, e in ENVIRONMENTS.items() if "catch" in e.tags])
def test_a_random_policy_scores_what_luck_gives(name):
    env = gymnasium.make_vec(name, num_envs=512, autoreset_mode="SameStep")
    env.reset(seed=1)
    rng = np.random.default_rng(2)
    scores = []
    while len(scores) < 40:
        _, rewards, terminations, _, _ = env.step(rng.integers(3, size=512))
        if terminations.any():
            scores.append(rewards[terminations])
    size, width = ENVIRONMENTS[name].kwargs["size"], ENVIRONMENTS[name].kwargs["paddle_width"]
    expected = 2 * width / size - 1
    scores = np.concatenate(scores)
    assert len(scores) >= 20_000
    half_width = 2.58 * np.sqrt((1 - expected**2) / len(scores))
    assert abs(scores.mean() - expected) < half_width
    assert reference_returns(name).random == pytest.approx(expected)


def test_the_documented_returns_are_the_computed_ones():
    rows = [line.split("|")[1:-1] for line in CatchEnv.__doc__.splitlines() if line.strip().startswith("| `")]
    assert {row[0].strip(" `") for row in rows} == {n for n, e in ENVIRONMENTS.items() if "catch" in e.tags}
    for name, *values in rows:
        assert [float(value) for value in values] == pytest.approx(list(reference_returns(name.strip(" `"))), abs=5e-4)


def test_reference_returns_follow_the_arguments():
    assert reference_returns("PartialCatch-v0", size=20, paddle_width=5) == returns(20, 3, 5)
    with pytest.raises(ValueError, match=r"PartialCatch-v0.*got 'Pong-v0'"):
        reference_returns("Pong-v0")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"size": 1}, ValueError, "size must be at least 2, got 1"),
        ({"size": 16.0}, TypeError, r"size must be a whole number, got 16\.0"),
        ({"size": True}, TypeError, "size .* got True"),
        ({"size": "16"}, TypeError, "size .* got '16'"),
        ({"visible_frames": 0}, ValueError, "visible_frames must be from 1 to 16, got 0"),
        ({"visible_frames": 17}, ValueError, "visible_frames must be from 1 to 16, got 17"),
        ({"visible_frames": float("nan")}, TypeError, "visible_frames .* got nan"),
        ({"paddle_width": 0}, ValueError, "paddle_width must be from 1 to 16, got 0"),
        ({"paddle_width": 17}, ValueError, "paddle_width must be from 1 to 16, got 17"),
        ({"paddle_width": None}, TypeError, "paddle_width .* got None"),
        ({"render_mode": "window"}, ValueError, "render_mode must be one of .*'ansi', got 'window'"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, message):
    for make in (CatchEnv, functools.partial(gymnasium.make_vec, "PartialCatch-v0")):
        with pytest.raises(error, match=message):
            make(**kwargs)


def test_action_names():
    """The names agree with the actions' effect on a paddle in the middle."""
    env = CatchEnv()
    moved = {}
    for action, name in enumerate(env.get_action_meanings()):
        env.reset(options={"paddle": 5})
        env.step(action)
        moved[name] = int(env.get_state()["paddle"][0]) - 5
    assert moved == {"stay": 0, "left": -1, "right": 1}
