"""train/agent.py as a user runs it: the folder of a run, and the commands that read it."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwagents.sb3 import MemoryPPO
from fwagents.sb3.board import CHARTS
from fwagents.settings import AGENT_CORE

from .inspection.test_page import data_of
from .runs import TINY, run_folder
from .scripts import Started, refusal, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a finished tiny run, and its output."""
    cwd = tmp_path_factory.mktemp("work")
    args = [*TINY, "--env-kwargs", "size=6", "visible_frames=2", "--n-steps", "10", "--seed", "3"]
    done = run("agent.py", *args, "--eval-freq", "200", "--checkpoint-freq", "200", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return run_folder(cwd), done.stdout


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
    done = run("watch.py", folder, "--episodes", "2", "--fps", "7", "--output", "play.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = data_of((tmp_path / "play.html").read_text())
    assert (data["title"], data["fps"]) == (f"PartialCatch-v0, {AGENT_CORE}", 7)
    assert [(episode["steps"], episode["choices"]) for episode in data["episodes"]] == 2 * [
        (5, [["stay", "left", "right"]])
    ]
    assert [len(episode["looks"]["shares"][4]) for episode in data["episodes"]] == [4, 4]


def test_watch_shows_the_newest_agent_by_itself(trained, tmp_path):
    folder, _ = trained
    assert "runs has no run with a model yet" in refusal(run("watch.py", "--no-window", cwd=tmp_path))
    done = run("watch.py", "--episodes", "1", "--output", "play.gif", cwd=folder.parent.parent.parent)
    assert done.returncode == 0, done.stderr
    assert (folder.parent.parent.parent / "play.gif").exists()


def test_export(trained, tmp_path):
    folder, _ = trained
    done = run("export.py", folder, "--output", "out", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("agent.json", "agent.safetensors", "step.onnx", "sequence.onnx")
    }
    assert done.stdout.count("over 10 steps of 2 episodes 100.00% of the actions are the agent's") == 2
    assert "is no run" in refusal(run("export.py", "nowhere", cwd=tmp_path))


@pytest.mark.parametrize("core", ["fast_weights", "rotary_fast_weights", "gru"])
def test_pictures_of_the_memory_in_tensorboard(core, tmp_path):
    options = ["--n-steps", "20", "--eval-freq", "320", "--env-kwargs", "size=5", "--log-memory", "--core", core]
    assert run("agent.py", *TINY, *options, cwd=tmp_path).returncode == 0
    events = EventAccumulator(str(run_folder(tmp_path)))
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
