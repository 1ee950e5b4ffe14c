"""train/agent.py and train/watch.py as a user runs them."""

import csv
import json
import pickle
import signal
import subprocess
import sys
import time
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwagents.inspection import trace
from fwagents.sb3 import MemoryPPO, make_vec_env
from fwagents.sb3.board import CHARTS
from fwagents.settings import AGENT_CORE

from .scripts import TRAIN, Started, run

TINY = [
    "--num-envs",
    "4",
    "--hidden-size",
    "8",
    "--final-episodes",
    "8",
    "--eval-episodes",
    "4",
    "--total-timesteps",
    "600",
]
CELL = ["--core", "fast_weights"]
FILTER = "gymnasium.wrappers:FilterObservation"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a finished tiny run, and its output."""
    cwd = tmp_path_factory.mktemp("work")
    args = [*TINY, "--env-kwargs", "size=6", "visible_frames=2", "--n-steps", "10", "--seed", "3"]
    done = run("agent.py", *args, "--eval-freq", "200", "--checkpoint-freq", "200", cwd=cwd)
    assert done.returncode == 0, done.stderr
    (folder,) = (cwd / "runs" / "PartialCatch-v0").iterdir()
    return folder, done.stdout


def test_run_folder(trained):
    folder, printed = trained
    assert folder.name.startswith(f"{AGENT_CORE}-s3-")
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "result.json", "progress.csv", "monitor.csv", "evaluations.npz"} <= names
    assert {"best_model.zip", "final_model.zip", "checkpoints"} <= names
    steps = sorted(int(p.stem.removeprefix("step_")) for p in (folder / "checkpoints").iterdir())
    assert steps == [0, 200, 400]
    assert not [n for n in names if n.startswith(".")], "temporary files are gone"

    config = json.loads((folder / "config.json").read_text())
    assert config["args"]["env"] == "PartialCatch-v0"
    assert config["env_kwargs"] == {"size": 6, "visible_frames": 2}
    assert config["policy_kwargs"]["hidden_size"] == 8
    assert config["command"].startswith("python ")

    result = json.loads((folder / "result.json").read_text())
    for model in ("final_model", "best_model"):
        measured = result[model]
        assert measured["episodes"] == 8
        # Returns are +1 or -1, so the success rate must say the same.
        for played in (measured, measured["sampled"]):
            assert played["mean_return"] == pytest.approx(2 * played["success_rate"] - 1)
            low, high = played["interval"]
            assert -1 <= low <= played["mean_return"] <= high <= 1
    # With size 6, two visible frames and a paddle of two, a memoryless player can catch the ball from 24 of 30 starts.
    returns = {name: reference["mean_return"] for name, reference in result["references"].items()}
    assert returns == pytest.approx({"optimal": 1.0, "memoryless": 2 * 24 / 30 - 1, "random": 2 * 2 / 6 - 1})
    for word in ("best memoryless player", "random player", "final_model, sampled", "training return, last"):
        assert word in printed, word
    for word in (
        "mean return",
        "95 % interval",
        "success",
        "final_model",
        "fwagents watch",
        "tensorboard.main --logdir",
    ):
        assert word in printed, word


def test_tensorboard_and_csv(trained):
    folder, _ = trained
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        *("rollout/ep_rew_mean", "rollout/success_rate", "time/fps", "memory/W_norm", "memory/recent_norm"),
        *("train/loss", "train/value_loss", "train/entropy_loss", "eval/mean_reward", "eval/success_rate"),
    } <= tags
    with (folder / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [int(row["time/total_timesteps"]) for row in rows if row["time/total_timesteps"]]
    assert sorted(set(logged)) == list(range(40, 601, 40))
    with (folder / "monitor.csv").open() as file:
        next(file)
        episodes = list(csv.DictReader(file))
    assert len(episodes) == 600 // 5
    assert {row["r"] for row in episodes} <= {"1.0", "-1.0"}


def test_saved_model_is_whole_and_plays(trained):
    folder, _ = trained
    for path in [folder / "final_model.zip", folder / "best_model.zip", *(folder / "checkpoints").iterdir()]:
        model = MemoryPPO.load(path)
        assert model.predict(np.zeros((2, 36), np.uint8))[0].shape == (2,)


def test_watch(trained, tmp_path, monkeypatch):
    folder, _ = trained
    shown = run("watch.py", folder, "--episodes", "2", "--fps", "1000", "--no-window", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr, "not a terminal"
    assert "no window" not in shown.stderr, "none was asked for"
    assert shown.stdout.count("frame 1/6") == 2
    assert shown.stdout.count("frame 6/6, screen blank") == 2
    for head in (1, 2, 3, 4):  # each head has bars over the steps that it looks back at
        assert shown.stdout.count(f"head {head} |") == 10, head
    for word in ("what the agent sees", "stay", "left", "right", "value "):
        assert shown.stdout.count(word) == 10, word
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform == "linux":
        assert "playing in the terminal" in run("watch.py", folder, "--episodes", "1", cwd=tmp_path).stderr
    done = run("watch.py", folder, "--episodes", "2", "--output", "play.gif", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "play.gif") as gif:
        assert gif.n_frames == 12
        assert min(gif.size) >= 320


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


@pytest.mark.parametrize(
    "args",
    [
        ["--env", "CartPole-v1", "--core", "lstm"],
        ["--env", "Pendulum-v1", "--core", "gru", "--critic-core", "none", "--lr-schedule", "constant"],
        ["--core", "irnn", "--critic-core", "shared", "--algo", "memory_a2c", "--use-rms-prop"],
        ["--env", "TMaze-v0", "--env-kwargs", "length=3"],
        ["--wrappers", "gymnasium.wrappers:FlattenObservation", "--core", "gru", "--frame-stack", "2", "--normalize"],
        ["--vec-env", "subproc", "--core", "none", "--num-envs", "2"],
        ["--algo", "recurrent_ppo"],
        ["--chunk-length", "10", "--refresh-states"],
        ["--core-kwargs", "num_heads=2", "rotary=all", "--net-arch", "8", "6", "--encoder-kwargs", "layer_norm=True"],
        [*CELL, "--inner-steps", "2", "--decay", "0.9", "--fast-lr", "0.1", "--core-kwargs", "boundary='identity'"],
        [*CELL, "--inner-steps", "adaptive", "--core-kwargs", "tolerance=0.2", "max_inner_steps=3"],
        ["--env", "ale_py:ALE/Pong-v5", "--wrappers", "gymnasium.wrappers:TimeLimit(max_episode_steps=9)"],
        ["--env", "minigrid:MiniGrid-MemoryS7-v0", "--wrappers", f"{FILTER}(filter_keys=['image', 'direction'])"],
        ["--env", "minigrid:MiniGrid-MemoryS7-v0", "--wrappers", "minigrid.wrappers:ImgObsWrapper"],
        ["--env", "popgym:popgym-AutoencodeEasy-v0", "--wrappers", "gymnasium.wrappers:FlattenObservation"],
        ["--env", "HalfCheetah-v5", "--env-kwargs", "max_episode_steps=9", "--normalize"],
    ],
    ids=lambda args: " ".join(args[:4]),
)
def test_other_environments_and_cores(args, tmp_path):
    done = run("agent.py", *TINY, "--n-steps", "20", "--eval-freq", "0", "--checkpoint-freq", "0", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--env", "NoSuch-v0"], "Another package's is module:Id"),
        (["--env", "minigrid:MiniGrid-MemoryS7-v0"], "observation 'mission' is a MissionSpace, expected Box, Discrete"),
        (["--env", "nomodule:NoSuch-v0"], "No module named 'nomodule'"),
        (["--n-steps", "1", "--num-envs", "1"], "expected at least 2"),
        (["--core", "lstm", "--decay", "0.9"], "core 'lstm' has no option 'decay'"),
        (["--env-kwargs", "size"], "--env-kwargs got 'size', expected name=value"),
        (["--env-kwargs", "sizes=3"], "unexpected keyword argument 'sizes'"),
        (["--wrappers", "Flatten"], "wrapper is 'Flatten', expected module:Class or module:Class(name=value)"),
        (["--frame-stack", "0"], "--frame-stack is 0, expected at least 1"),
        (["--num-envs", "0"], "--num-envs is 0, expected at least 1"),
        (["--inner-steps", "-1"], "--inner-steps is -1, expected at least 0 or adaptive or None"),
        (["--log-dir", "file"], "file"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, list) else "",
)
def test_a_mistake_is_one_clear_line(args, message, tmp_path):
    (tmp_path / "file").touch()
    done = run("agent.py", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "nothing was written"


@pytest.mark.parametrize(
    ("args", "word"), [(["--env"], "--env"), (["--corre", "lstm"], "--corre"), (["--vec-env", "thread"], "thread")]
)
def test_words_that_are_no_options_are_named_in_a_box(args, word, tmp_path):
    done = run("agent.py", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "no run"), ("empty", "no run"), ("broken", "not JSON"), ("partial", "args has no 'env_kwargs'")],
)
def test_watch_names_what_is_wrong(folder, message, tmp_path):
    for name, config in [("empty", None), ("broken", "{"), ("partial", '{"args": {"env": "PartialCatch-v0"}}')]:
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
    done = run("watch.py", folder, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_export(trained, tmp_path):
    folder, _ = trained
    done = run("export.py", folder, "--output", "out", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("agent.json", "agent.safetensors", "step.onnx", "sequence.onnx")
    }
    assert done.stdout.count("over 10 steps of 2 episodes 100.00% of the actions are the agent's") == 2
    none = run("export.py", "nowhere", cwd=tmp_path)
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "is no run" in none.stderr


def test_watch_shows_the_newest_agent_by_itself(trained, tmp_path):
    folder, _ = trained
    none = run("watch.py", "--no-window", cwd=tmp_path)
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "runs has no run with a model yet" in none.stderr
    done = run("watch.py", "--episodes", "1", "--output", "play.gif", cwd=folder.parent.parent.parent)
    assert done.returncode == 0, done.stderr
    assert (folder.parent.parent.parent / "play.gif").exists()


def test_watch_writes_no_other_files(tmp_path):
    done = run("watch.py", "nowhere", "--output", "play.avi", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --output is play.avi, expected a name that ends in .gif or .mp4\n",
    )


@pytest.mark.parametrize(("scale", "stopped"), [(1e5, "gradient norm is inf after 24 steps"), (1e20, None)])
@pytest.mark.parametrize("checked", [True, False])
def test_a_run_that_cannot_go_on_is_judged_by_how_it_plays(scale, stopped, checked, tmp_path, monkeypatch):
    """An IRNN's state overflows its loss, or also its action distribution, so that it cannot play either.

    The result is the same whether or not torch checks the arguments of its distributions.
    """
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", checked)
    small = ["--env-kwargs", "size=6", "--n-steps", "6", "--num-envs", "4", "--hidden-size", "8", "--eval-freq", "0"]
    core = ["--core", "irnn", "--core-kwargs", f"identity_scale={scale}", "--final-episodes", "20"]
    done = run("agent.py", *small, *core, cwd=tmp_path)
    assert done.returncode == 1
    assert "stopped: " in done.stdout
    assert done.stderr == ""
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/result.json")]
    assert result["stopped"] in done.stdout
    if stopped is None:
        assert "final_model" not in result
    else:
        assert result["stopped"].startswith(stopped)
        assert (result["steps"], result["final_model"]["episodes"]) == (24, 20)


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_says_where(interrupt, tmp_path):
    process = Started("agent.py", "--num-envs", "4", "--hidden-size", "8", "--eval-freq", "0", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.glob("runs/*/*/progress.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(interrupt)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (saved,) = tmp_path.glob("runs/*/*/interrupted_model.zip")
    assert str(saved.relative_to(tmp_path)) in printed
    assert MemoryPPO.load(saved).num_timesteps > 0


def test_watch_what_cannot_be_drawn_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    options = ["--env", "CartPole-v1", "--eval-freq", "0", "--checkpoint-freq", "0"]
    assert run("agent.py", *TINY, *options, "--core", "gru", cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "runs" / "CartPole-v1").iterdir()
    done = run("watch.py", folder, "--episodes", "1", "--output", "cart.gif", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "cart.gif").exists()) == (0, True), done.stderr
    for where, drawn in [("--window", False), ("--no-window", True)]:
        shown = run("watch.py", folder, "--episodes", "1", "--fps", "1000", where, cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "episode 1: return" in shown.stdout
        assert ("what the agent sees" in shown.stdout) == drawn


@pytest.mark.parametrize(("tolerance", "reads"), [(1e9, 1), (1e-12, 3 - 1 / 200)])
def test_an_adaptive_memory_s_reads_are_counted(tolerance, reads, tmp_path):
    """There is one read if every move is small, and three if none is, except two at the first step: A is empty."""
    options = [*CELL, "--inner-steps", "adaptive", "--core-kwargs", f"tolerance={tolerance}", "max_inner_steps=3"]
    done = run("agent.py", *TINY, "--env", "PendulumNoVel-v1", "--normalize", "--n-steps", "20", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "PendulumNoVel-v1").iterdir()
    assert json.loads((folder / "result.json").read_text())["final_model"]["inner_steps_taken"] == pytest.approx(reads)


def test_normalized_agents_are_judged_and_shown_as_they_learned(tmp_path):
    options = ["--env", "PendulumNoVel-v1", "--normalize", "--n-steps", "20", "--eval-freq", "300"]
    assert run("agent.py", *TINY, *options, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "runs" / "PendulumNoVel-v1").iterdir()
    result = json.loads((folder / "result.json").read_text())
    for name in ("final_model", "best_model"):
        path = folder / f"{name}.zip"
        model = MemoryPPO.load(path)
        with zipfile.ZipFile(path) as archive:
            statistics = pickle.loads(archive.read("vecnormalize.pkl")).obs_rms
        env = make_vec_env("PendulumNoVel-v1", 4, seed=2_000_000)
        obs, states, start, total = env.reset(), None, np.ones(4, dtype=bool), 0.0
        for _ in range(2 * 200):  # eight episodes, two in each environment
            seen = np.clip((obs - statistics.mean) / np.sqrt(statistics.var + 1e-8), -10, 10).astype(np.float32)
            actions, states = model.predict(seen, states, start, deterministic=True)
            obs, rewards, start, _ = env.step(actions)
            total += rewards.sum()
        assert result[name]["mean_return"] == pytest.approx(total / 8, rel=1e-5)
    # PendulumNoVel's returns are not known exactly, so a random player plays; the reported return is about -1200.
    random = result["references"]["random"]
    assert (random["episodes"], list(result["references"])) == (8, ["random"])
    assert -1900 < random["mean_return"] < -700
    shown = run("watch.py", folder, "--episodes", "1", "--no-window", "--fps", "1e6", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize(
    ("script", "option"),
    [
        *[("agent", "--total-timesteps"), ("retrieval", "--hidden-size"), ("glimpses", "--patch-size")],
        *[("watch", "--no-window"), ("pictures", "--output"), ("export", "--output")],
    ],
)
def test_help_needs_no_torch(script, option, tmp_path):
    """Slow modules are imported after the command line is parsed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(TRAIN / f"{script}.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert option in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "numpy", "gymnasium", "stable_baselines3", "matplotlib", "tensorboard"}


@pytest.mark.parametrize("core", ["fast_weights", "rotary_fast_weights", "gru"])
def test_pictures_of_the_memory_in_tensorboard(core, tmp_path):
    options = ["--n-steps", "20", "--eval-freq", "320", "--env-kwargs", "size=5", "--log-memory", "--core", core]
    assert run("agent.py", *TINY, *options, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "runs" / "PartialCatch-v0").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["images"]) == {"memory/attention", "memory/film"}
    assert [event.step for event in events.Images("memory/film")] == [640]  # the end of a short run
    if core != "gru":  # a GRU has no matrix
        curves = set(events.Tags()["scalars"])
        assert all(curves & set(tags) for charts in CHARTS.values() for tags in charts.values()), "no chart is empty"


def test_two_runs_at_once_do_not_meet(tmp_path):
    args = [*TINY, "--n-steps", "20", "--eval-freq", "0"]
    processes = [Started("agent.py", *args, cwd=tmp_path) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    folders = list((tmp_path / "runs" / "PartialCatch-v0").iterdir())
    assert len(folders) == 2
    # The same seed and command give the same agent.
    models = [MemoryPPO.load(folder / "final_model.zip").policy.parameters_to_vector() for folder in folders]
    np.testing.assert_array_equal(*models)
