"""Pictures of the memory in TensorBoard: their content, their cost, and that training does not change."""

import io
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwagents.inspection import trace
from fwagents.sb3 import MemoryPPO, make_vec_env, memory_log
from fwagents.sb3.logging import run_logger
from fwagents.sb3.memory_log import MemoryLogCallback

GAME = {"size": 6, "visible_frames": 2}


def learner(core="fast_weights"):
    env = make_vec_env("PartialCatch-v0", 2, seed=0, **GAME)
    return MemoryPPO("MemoryPolicy", env, n_steps=10, seed=0, policy_kwargs={"core": core, "hidden_size": 8})


def callback(every=40, **kwargs):
    return MemoryLogCallback(gym.make("PartialCatch-v0", render_mode="rgb_array", **GAME, **kwargs), 5, every)


def logged(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    return events


@pytest.mark.parametrize(
    ("core", "histograms"),
    [
        ("fast_weights", ["looks_back"]),
        ("rotary_fast_weights", [f"looks_back/head_{n}" for n in (1, 2, 3, 4)]),
        ("lstm", []),
    ],
)
def test_what_is_logged(core, histograms, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_log, "SHARE", float("inf"))
    model = learner(core)
    model.set_logger(run_logger(tmp_path))
    model.learn(100, callback=callback())
    events = logged(tmp_path)
    assert set(events.Tags()["images"]) == {"memory/attention", "memory/film"}
    for tag in ("memory/attention", "memory/film"):
        assert [event.step for event in events.Images(tag)] == [40, 80, 100]
    with Image.open(io.BytesIO(events.Images("memory/film")[-1].encoded_image_string)) as film:
        assert (film.format, film.n_frames) == ("GIF", 6)
    event = events.Images("memory/attention")[-1]
    with Image.open(io.BytesIO(event.encoded_image_string)) as attention:
        assert (attention.format, attention.size) == ("PNG", (event.width, event.height))
    # The last log equals a trace of the trained agent.
    seen = trace(model, gym.make("PartialCatch-v0", **GAME), seed=5)
    units = events.Histograms("memory/units")[-1].histogram_value
    assert (units.num, units.sum) == (5 * 8, pytest.approx(seen.hidden.sum(), rel=1e-5))
    tags = events.Tags()["histograms"]
    assert {tag for tag in tags if "looks" in tag} == {f"memory/{name}" for name in histograms}
    for head, name in enumerate(histograms):
        looks = events.Histograms(f"memory/{name}")[-1].histogram_value
        written = np.linalg.norm(seen.written[:, 0, head], axis=1)
        sizes = {
            age: sum(abs(seen.attention[t, 0, head, -1, t - age]) * written[t - age] for t in range(age, 5))
            for age in range(5)
        }
        assert looks.bucket_limit == [0.5, 1.5, 2.5, 3.5, 4.5]
        assert looks.bucket == pytest.approx([*sizes.values()], rel=1e-4)
        assert looks.sum == pytest.approx(sum(age * size for age, size in sizes.items()), rel=1e-4)


def test_training_is_what_it_would_be_without(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_log, "SHARE", float("inf"))
    weights = []
    for name, callbacks in (("with", [callback(20)]), ("without", [])):
        model = learner()
        model.set_logger(run_logger(tmp_path / name))
        model.learn(100, callback=callbacks)
        weights.append(model.policy.parameters_to_vector())
    np.testing.assert_array_equal(*weights)


def test_at_most_its_share_of_the_time(tmp_path, monkeypatch):
    """On a simulated clock, a rollout takes a second and a log half a second."""
    clock = SimpleNamespace(now=0.0, drawn=0)

    def draw(*_, **__):
        clock.now += 0.5
        clock.drawn += 1

    monkeypatch.setattr(memory_log, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(memory_log, "trace_episodes", draw)
    monkeypatch.setattr(MemoryLogCallback, "_add", lambda *_: None)
    model = learner()
    model.set_logger(run_logger(tmp_path))
    watched = callback(every=20)
    watched.init_callback(model)
    watched.on_training_start({}, {})
    rollouts, first = 1000, None
    for rollout in range(1, rollouts + 1):
        clock.now += 1.0
        model.num_timesteps = 20 * rollout
        watched.num_timesteps = model.num_timesteps
        watched.on_rollout_end()
        first = rollout if first is None and clock.drawn else first
        assert 0.5 * clock.drawn <= 0.015 * clock.now
    assert first == 67
    assert clock.drawn >= 0.9 * 0.015 * rollouts / 0.5
    # The last log, at the end of training, must fit too, unless it is the only one.
    drawn, clock.now = clock.drawn, clock.drawn * 0.5 / 0.015
    model.num_timesteps = watched.num_timesteps = 20 * (rollouts + 1)
    watched.on_training_end()
    assert clock.drawn == drawn
    short = callback(every=20)
    short.init_callback(model)
    short.on_training_start({}, {})
    short.num_timesteps = 20
    short.on_training_end()
    assert clock.drawn == drawn + 1
    # If a log costs nearly nothing, only the steps between logs count.
    often = callback(every=200)
    often.cost = 0.0
    often.init_callback(model)
    often.on_training_start({}, {})
    monkeypatch.setattr(memory_log, "trace_episodes", lambda *_, **__: setattr(clock, "drawn", clock.drawn + 1))
    clock.drawn = 0
    for rollout in range(1, 101):
        clock.now += 1.0
        often.num_timesteps = 20 * rollout
        often.on_rollout_end()
    assert clock.drawn == 10


def test_long_episodes_have_short_films():
    pictures = list(
        memory_log.film(trace(learner(), gym.make("PartialCatch-v0", render_mode="rgb_array", **GAME), seed=0), every=2)
    )
    assert len(pictures) == 4  # steps 1, 3 and 5, and the end


def test_without_tensorboard_nothing_is_played(monkeypatch):
    monkeypatch.setattr(memory_log, "trace_episodes", None)
    learner().learn(20, callback=callback())
