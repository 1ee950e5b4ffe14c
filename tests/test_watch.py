"""train/watch.py: pages in the terminal, environments that cannot be drawn, and errors."""

import gymnasium as gym
import numpy as np
import pytest

from fwagents.inspection import trace
from fwagents.sb3 import MemoryPPO

from .runs import TINY, run_folder
from .scripts import refusal, run


def test_pictures_in_a_pipe_are_plain(monkeypatch):
    from fwagents.runs.terminal import blocks, plain

    picture = np.zeros((4, 2, 3), np.uint8)
    picture[:2] = 255
    assert plain("\n".join(blocks(picture))) == "@@\n  "


def test_the_first_step_of_the_papers_cell_has_nothing_to_look_back_at():
    """The second step has only the first to look back at."""
    from fwagents.runs.terminal import page

    env = gym.make("PartialCatch-v0", size=6, render_mode="ansi")
    kwargs = {"core": "fast_weights", "hidden_size": 8}
    seen = trace(MemoryPPO("MemoryPolicy", env, n_steps=5, seed=0, policy_kwargs=kwargs), env, seed=0)
    assert "comes from nothing yet" in page(seen, 0)
    assert "comes from step 1 most, 100%" in page(seen, 1)


def test_a_page_in_the_terminal_has_bars_for_each_head(monkeypatch):
    from fwagents.runs.terminal import LEVELS, page

    env = gym.make("PartialCatch-v0", size=6, render_mode="ansi")
    kwargs = {"core": "rotary_fast_weights", "hidden_size": 8}
    seen = trace(MemoryPPO("MemoryPolicy", env, n_steps=5, seed=0, policy_kwargs=kwargs), env, seed=0)
    heights = seen.parts()[3, 0, :, :4]
    heights = np.round(8 * heights / heights.max()).astype(int)
    bars = [f"head {n + 1} |{''.join(LEVELS[level] for level in levels)}|" for n, levels in enumerate(heights)]
    assert page(seen, 3).splitlines()[-4:] == bars


def test_watch_what_cannot_be_drawn_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    options = ["--env", "CartPole-v1", "--eval-freq", "0", "--checkpoint-freq", "0"]
    assert run("agent.py", *TINY, *options, "--core", "gru", cwd=tmp_path).returncode == 0
    folder = run_folder(tmp_path)
    done = run("watch.py", folder, "--episodes", "1", "--output", "cart.gif", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "cart.gif").exists()) == (0, True), done.stderr
    for where, drawn in [("--window", False), ("--no-window", True)]:
        shown = run("watch.py", folder, "--episodes", "1", "--fps", "1000", where, cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "episode 1: return" in shown.stdout
        assert ("what the agent sees" in shown.stdout) == drawn


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "no run"), ("empty", "no run"), ("broken", "not JSON"), ("partial", "args has no 'env_kwargs'")],
)
def test_watch_names_what_is_wrong(folder, message, tmp_path):
    for name, config in [("empty", None), ("broken", "{"), ("partial", '{"args": {"env": "PartialCatch-v0"}}')]:
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
    assert message in refusal(run("watch.py", folder, cwd=tmp_path))


def test_watch_writes_no_other_files(tmp_path):
    done = run("watch.py", "nowhere", "--output", "play.avi", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --output is play.avi, expected a name that ends in .html, .gif or .mp4\n",
    )
