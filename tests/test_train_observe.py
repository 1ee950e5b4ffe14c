"""--observe: all environments of a run show the last step, wherever they are made."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from fwagents.envs.wrappers import PreviousStep
from fwagents.export import load_policy
from fwagents.sb3 import MemoryPPO

from .runs import resumed_as_unbroken, run_folder
from .scripts import refusal, run

OPTIONS = [
    *(
        "--observe",
        "reward",
        "action",
        "--env-kwargs",
        "size=6",
        "visible_frames=2",
        "--n-steps",
        "7",
        "--num-envs",
        "4",
    ),
    *("--hidden-size", "8", "--total-timesteps", "560", "--checkpoint-freq", "200", "--eval-freq", "200"),
    *("--eval-episodes", "4", "--final-episodes", "8", "--core", "gru", "--normalize", "--frame-stack", "2"),
]
SIZE = 2 * (36 + 3 + 1 + 1)  # two stacked frames of screen, action, reward and flag


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("told")
    done = run("agent.py", *OPTIONS, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "uses its memory or its stack of observations, or what it is told of its last step;" in done.stdout
    return run_folder(cwd)


def test_the_run_says_so(trained):
    assert json.loads((trained / "config.json").read_text())["args"]["observe"] == ["reward", "action"]
    for name in ("final_model", "best_model"):
        assert MemoryPPO.load(trained / f"{name}.zip").observation_space.shape == (SIZE,)
        assert json.loads((trained / "result.json").read_text())[name]["episodes"] == 8


def test_a_resumed_run_is_one_that_never_stopped(trained, tmp_path):
    step, done = resumed_as_unbroken(trained, tmp_path)
    assert f"at {step} steps" in done.stdout


def test_it_is_watched_and_exported(trained, tmp_path):
    shown = run("watch.py", trained, "--episodes", "1", "--fps", "1000", "--no-window", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "episode 1: return" in shown.stdout
    done = run("export.py", trained, "--output", "out", "--no-onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    agent = load_policy(tmp_path / "out" / "agent")
    assert agent.observe == ("reward", "action")
    assert agent.policy.observation_space.shape == (SIZE,)


@pytest.mark.slow
def test_its_onnx_plays_as_it_does(trained, tmp_path):
    done = run("export.py", trained, "--output", "out", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("over 10 steps of 2 episodes 100.00% of the actions are the agent's") == 2


@pytest.mark.parametrize("vec_env", ["auto", "dummy"])
@pytest.mark.parametrize("observe", [(), ("reward",), ("action", "reward")])
@pytest.mark.parametrize("name", ["PartialCatch-v0", "PendulumNoVel-v1"])
def test_one_environment_is_told_as_many_are(name, observe, vec_env, monkeypatch):
    """Compare stacked observations, into the second episode, with the wrapper applied by hand."""
    from fwagents.runs.environments import Environment

    environment = Environment(name, {}, frame_stack=2, observe=observe, vec_env=vec_env)
    one, many = environment.one(), environment.many(1, seed=5)
    inner = Environment(name, {}).one()
    by_hand = PreviousStep(inner, observe) if observe else inner
    assert one.observation_space == many.observation_space
    one.action_space.seed(0)
    obs, (batch,), newest = one.reset(seed=5)[0], many.reset(), by_hand.reset(seed=5)[0]
    for _ in range(220):
        np.testing.assert_array_equal(obs, batch)
        np.testing.assert_array_equal(obs[len(newest) :], newest)
        action = one.action_space.sample()
        obs, _, terminated, truncated, _ = one.step(action)
        newest = by_hand.step(action)[0]
        (batch,), _, dones, _ = many.step(np.array([action]))
        assert dones[0] == (terminated or truncated)
        if dones[0]:
            obs, newest = one.reset()[0], by_hand.reset()[0]


def test_wrappers_stand_inside(monkeypatch):
    """The reward in the observation is the wrappers' reward."""
    from fwagents.runs.environments import Environment, wrapper

    clipped = (wrapper("gymnasium.wrappers:ClipReward(max_reward=0.25)"),)
    env = Environment("CartPole-v1", {}, clipped, observe=("reward",)).many(1, seed=0)
    env.reset()
    assert env.step(np.array([0]))[0][0, -2:].tolist() == [0.25, 0]


def test_the_reward_alone_can_be_named_from_outside(monkeypatch):
    """--wrappers accepts PreviousStep, as any Gymnasium wrapper."""
    from fwagents.runs.environments import Environment, wrapper

    named = wrapper("fwagents.envs.wrappers:PreviousStep(observe=['reward'])")
    space = Environment("TMaze-v0", {}, (named,)).many(2, seed=0).observation_space
    assert space == spaces.Box(np.array([0, 0, 0, -np.inf, 0]), np.array([1, 1, 1, np.inf, 1]), dtype=np.float32)


def test_a_search_is_told_and_goes_on_only_as_it_began(tmp_path):
    pytest.importorskip("optuna")
    words = ["--total-timesteps", "400", "--hidden-size", "4", "--seeds", "100", "--trials", "1", "--core", "gru"]
    done = run("tune.py", *words, "--observe", "reward", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "runs" / "tuning" / "PartialCatch-v0-gru.json"
    assert json.loads(path.read_text())["observe"] == ["reward"]
    assert "holds a search with observe ['reward'], expected []" in refusal(run("tune.py", *words, cwd=tmp_path))


def test_the_same_twice_is_one_clear_line(tmp_path):
    done = run("agent.py", "--observe", "action", "action", cwd=tmp_path)
    assert "observe is ['action', 'action'], expected a list of 'action', 'reward'" in refusal(done)
    assert not list(tmp_path.iterdir())
