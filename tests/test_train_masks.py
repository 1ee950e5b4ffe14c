"""--mask-actions: a run's environments mask the actions wherever they are made, without being asked again."""

import json

import numpy as np
import pytest

from fwagents.export import load_policy
from fwagents.runs.environments import Environment
from fwagents.sb3 import MaskableMemoryPolicy, MemoryPPO

from .runs import resumed_as_unbroken
from .sb3.tiny_envs import DoorsEnv
from .scripts import run

ENV = "tests.doors:Doors-v0"
OPTIONS = [
    *("--env", ENV, "--mask-actions", "--observe", "reward", "--normalize", "--frame-stack", "2", "--core", "gru"),
    *("--hidden-size", "8", "--num-envs", "4", "--n-steps", "8", "--total-timesteps", "320", "--checkpoint-freq", "96"),
    *("--eval-freq", "96", "--eval-episodes", "4", "--final-episodes", "16"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("masked")
    done = run("agent.py", *OPTIONS, cwd=cwd)
    assert done.returncode == 0, done.stderr
    (folder,) = (cwd / "runs").rglob("gru-s0-*")
    return folder


def test_every_player_keeps_to_the_legal_actions(trained):
    """An episode ends in its middle after an illegal action; not one does."""
    assert json.loads((trained / "config.json").read_text())["args"]["mask_actions"] is True
    result = json.loads((trained / "result.json").read_text())
    assert type(MemoryPPO.load(trained / "final_model.zip").policy) is MaskableMemoryPolicy
    assert 0.2 < result["references"]["random"]["mean_return"] < 0.8, "a guess at the end"
    lengths = np.load(trained / "evaluations.npz")["ep_lengths"]
    assert (lengths == DoorsEnv.doors + 1).all()
    played = np.loadtxt(trained / "monitor.csv", delimiter=",", skiprows=2)
    assert (played[:, 1] == DoorsEnv.doors + 1).all()


def test_a_resumed_run_is_one_that_never_stopped(trained, tmp_path):
    resumed_as_unbroken(trained, tmp_path)


def test_it_is_watched_and_exported(trained, tmp_path):
    shown = run("watch.py", trained, "--episodes", "1", "--fps", "1000", "--no-window", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"step {DoorsEnv.doors}, legal: [0, 1]" in shown.stdout
    done = run("export.py", trained, "--output", "out", "--no-onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    agent = load_policy(tmp_path / "out" / "agent")
    seen = np.zeros(agent.policy.observation_space["observation"].shape, np.float32)
    for action in range(3):
        assert agent.predict(seen, action_masks=np.arange(DoorsEnv.actions) == action)[0] == action


@pytest.mark.slow
def test_its_onnx_plays_as_it_does(trained, tmp_path):
    done = run("export.py", trained, "--output", "out", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("over 8 steps of 2 episodes 100.00% of the actions are the agent's") == 2


def test_one_environment_is_masked_as_many_are():
    """Into the second episode, with the frames stacked inside."""
    environment = Environment(ENV, {}, frame_stack=2, observe=("reward",), mask_actions=True)
    one, many = environment.one(), environment.many(1, seed=5)
    assert one.observation_space == many.observation_space
    obs, batch = one.reset(seed=5)[0], many.reset()
    for _ in range(3 * (DoorsEnv.doors + 1)):
        for key, part in batch.items():
            np.testing.assert_array_equal(obs[key], part[0])
        action = obs["action_masks"].argmax()
        obs, _, terminated, _, _ = one.step(action)
        batch, _, (done,), infos = many.step(np.array([action]))
        assert done == terminated
        if done:
            assert obs["action_masks"].all()
            assert infos[0]["terminal_observation"]["action_masks"].all()
            obs = one.reset()[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--mask-actions"],
            "there is no action_masks() in <CatchEnv<PartialCatch-v0>>, expected a method",
        ),
        (["--env", ENV, "--mask-actions", "--engine", "ray"], "--mask-actions does nothing with --engine ray"),
    ],
)
def test_what_cannot_be_masked_is_one_clear_line(words, message, tmp_path):
    done = run("agent.py", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
