"""The examples: each runs with a tiny budget, what it shows is true of that run, and it is short and listed."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from sb3_contrib import RecurrentPPO

from fwagents.cores import CORES, RotaryFastWeights, make_core

from .inspection.test_page import data_of

ROOT = Path(__file__).parent.parent
FILES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}


def example(name):
    return importlib.import_module(f"examples.{name}")


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    """Write files elsewhere, and remove the core that an example adds."""
    monkeypatch.chdir(tmp_path)
    before = dict(CORES)
    yield
    CORES.clear()
    CORES.update(before)


def test_there_are_ten_and_both_lists_name_them():
    assert len(FILES) == 10
    for page, folder in (("README.md", "examples/"), ("docs/examples.md", "../examples/")):
        listed = re.findall(rf"\]\({re.escape(folder)}(\w+)\.py\)", (ROOT / page).read_text())
        assert sorted(listed) == list(FILES), page


@pytest.mark.parametrize("name", FILES)
def test_each_is_short_and_says_how_to_run_it(name):
    text = FILES[name].read_text()
    assert len(text.splitlines()) < 60
    tree = ast.parse(text)
    assert f"\n    python examples/{name}.py\n" in ast.get_docstring(tree, clean=False)
    assert "Expect" in ast.get_docstring(tree)
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert main.args.args[0].arg == "total_timesteps"
    assert len(main.args.defaults) == len(main.args.args)


@pytest.mark.parametrize("name", FILES)
def test_each_uses_public_names_alone(name):
    """A public name is in its package's ``__all__``, or the page of the API lists its module."""
    pages = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    used = 0
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fwagents"):
            used += 1
            package = ROOT / node.module.replace(".", "/") / "__init__.py"
            lists = (
                re.search(r"^__all__ = (\[.*?\])", package.read_text(), re.DOTALL | re.MULTILINE)
                if (package.exists())
                else None
            )
            public = ast.literal_eval(lists.group(1)) if lists else []
            for alias in node.names:
                assert not alias.name.startswith("_")
                assert node.module in pages or alias.name in public, (node.module, alias.name)
        assert not (isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr)), node.attr
    assert used


def test_the_wheel_has_none():
    listed = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert not [package for package in ast.literal_eval(listed) if "examples" in package]


def name_the_cue(env):
    return env.cue


def which_quarter(env):
    return env.bottom if env.question else env.right


def play_in_order(env):
    return 0 if env.time < 3 else 1 + env.order[env.time - 3]


GAMES = [
    ("own_environment", "NameTheCue", name_the_cue),
    ("dict_observations", "WhichQuarter", which_quarter),
    ("action_masks", "PlayInOrder", play_in_order),
]


@pytest.mark.parametrize(("name", "game", "best"), GAMES, ids=[game for _, game, _ in GAMES])
def test_whoever_knows_the_secret_has_the_best_return(name, game, best):
    env = getattr(example(name), game)()
    for seed in range(20):
        env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            _, reward, done, _, _ = env.step(best(env))
            total += reward
        assert total == pytest.approx(1)


@pytest.mark.filterwarnings("ignore")  # render modes and ids, which a class of one's own has not
@pytest.mark.parametrize(("name", "game"), [pair[:2] for pair in GAMES if pair[0] != "action_masks"])
def test_games_pass_gymnasiums_check(name, game):
    check_env(getattr(example(name), game)(), skip_render_check=True)


def test_own_environment():
    returns = example("own_environment").main(160)
    assert set(returns) == {"rotary_fast_weights", "none"}
    assert all(0 < value < 1 for value in returns.values())  # 160 steps do not teach it


def test_own_environment_hides_the_cue_after_the_first_step():
    env = example("own_environment").NameTheCue()
    seen = {}
    for seed in range(20):
        first, _ = env.reset(seed=seed)
        later = np.stack([env.step(0)[0] for _ in range(4)])
        seen.setdefault(env.cue, (first, later))
    firsts, laters = zip(*seen.values(), strict=True)
    assert len(firsts) == 4
    assert len({first.tobytes() for first in firsts}) == 4
    assert len({later.tobytes() for later in laters}) == 1


def test_own_core_is_a_window():
    module = example("own_core")
    returns = module.main(576)
    assert returns.keys() == {3, 2}
    core = make_core("window", 4, 8, length=3)
    x = torch.randn(7, 2, 4)
    padded = torch.cat([torch.zeros(2, 2, 4), x])
    expected = torch.stack([core.project(torch.cat([padded[t], padded[t + 1], padded[t + 2]], -1)) for t in range(7)])
    torch.testing.assert_close(core(x)[0], expected.tanh())


def test_dict_observations():
    assert 0.3 < example("dict_observations").main(192) < 0.9


def test_action_masks_are_kept(monkeypatch):
    module = example("action_masks")
    taken = []
    step = module.PlayInOrder.step

    def recorded(env, action):
        taken.append((env.time, int(action), bool(env.action_masks()[action])))
        return step(env, action)

    monkeypatch.setattr(module.PlayInOrder, "step", recorded)
    assert 0 < module.main(192) < 1
    assert len(taken) > 192
    assert all(legal for _, _, legal in taken)
    assert {action for time, action, _ in taken if time < 3} == {0}
    assert {action for time, action, _ in taken if time >= 3} == {1, 2, 3}
    env = module.PlayInOrder()
    env.reset(seed=0)
    with pytest.raises(AssertionError, match="action is 1"):
        env.step(1)


def test_optuna_scores_are_those_of_the_settings():
    module = example("optuna_search")
    study = module.main(384, trials=2)
    assert study.best_value == max(trial.value for trial in study.trials)
    assert module.score(optuna.trial.FixedTrial(study.best_params), 384) == study.best_value


def test_a_continued_run_equals_the_unbroken_one(monkeypatch):
    module = example("continue_a_run")
    unbroken, continued = module.main(448)
    assert unbroken.num_timesteps == continued.num_timesteps == 448
    torch.testing.assert_close(continued.policy.state_dict(), unbroken.policy.state_dict(), rtol=0, atol=0)
    monkeypatch.setattr(module, "restore", lambda *_: True)
    unbroken, loaded = module.main(448)
    assert any((a != b).any() for a, b in zip(unbroken.policy.parameters(), loaded.policy.parameters(), strict=True))


def test_onnx_acts_as_the_policy(tmp_path, monkeypatch):
    module = example("onnx_loop")
    policies = []
    export_onnx = importlib.import_module("fwagents.export").export_onnx
    monkeypatch.setattr("fwagents.export.export_onnx", lambda policy, path: policies.append(policy))
    module.export(tmp_path / "agent.onnx", 320)
    (policy,) = policies
    with torch.no_grad():
        policy.action_net.weight.normal_(std=10.0)  # so that the actions differ
        policy.action_net.bias.zero_()
    export_onnx(policy, tmp_path / "agent.onnx")
    actions, mean_return = module.play(tmp_path / "agent.onnx", 60)
    env = gym.make(module.ENV, **module.GAME)
    obs, state, start, returns = env.reset(seed=0)[0], None, True, []
    for action in actions:
        (chosen,), state = policy.predict(obs[None], state, np.array([start]), deterministic=True)
        assert chosen == action
        obs, reward, start, _, _ = env.step(action)
        if start:
            returns.append(reward)
            obs, _ = env.reset()
    assert mean_return == pytest.approx(np.mean(returns))
    assert len(set(actions)) > 1


def test_the_onnx_loop_never_imports_torch(tmp_path):
    command = [sys.executable, FILES["onnx_loop"], "--total-timesteps", "320"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("torch is imported here: False\n")
    assert (tmp_path / "runs" / "examples" / "agent.onnx").exists()


def test_cells_of_the_notebook_run_one_after_the_other(tmp_path, capsys):
    text = FILES["trace_in_a_notebook"].read_text().replace("150_000", "320")
    cells = text.split("# %%")[1:]
    assert len(cells) == 4
    notebook = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("#" + cell, "cell", "exec"), notebook)
    page = notebook["page"]
    assert "<iframe" in page._repr_html_()
    assert (tmp_path / "runs" / "examples" / "episodes.html").read_text() == page
    episodes = data_of(page)["episodes"]
    assert len(episodes) == 2
    assert all(sum(episode["rewards"]) in (-1, 1) for episode in episodes)  # a ball is caught or missed
    printed = re.match(r"returns \[(.*?)\];", capsys.readouterr().out).group(1)
    assert [float(word) for word in printed.split()] == [sum(episode["rewards"]) for episode in episodes]


def test_recurrent_ppo_is_the_stock_one():
    agent, mean_return = example("recurrent_ppo").main(192)
    assert type(agent) is RecurrentPPO
    assert isinstance(agent.policy.actor_core, RotaryFastWeights)
    assert -1 <= mean_return <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "learned"),
    [
        ("own_environment", lambda returns: returns["rotary_fast_weights"] > 0.95 and returns["none"] < 0.4),
        ("own_core", lambda returns: returns[3] > 0.8 and returns[2] < 0),
        ("dict_observations", lambda mean_return: mean_return > 0.95),
        ("action_masks", lambda mean_return: mean_return > 0.9),
        ("optuna_search", lambda study: study.best_value > 0.9),
        ("recurrent_ppo", lambda result: result[1] > 0.9),
        ("trace_in_a_notebook", lambda seen: (seen.rewards.sum(0) == 1).all()),
    ],
)
def test_each_learns_what_it_says(name, learned):
    assert learned(example(name).main())


@pytest.mark.slow
def test_the_onnx_agent_learns_what_it_says(capsys):
    example("onnx_loop").main()
    assert float(re.search(r"mean return (\S+);", capsys.readouterr().out).group(1)) > 0.9


def test_the_defaults_are_the_budgets_of_the_text():
    assert all(
        inspect.signature(example(name).main).parameters["total_timesteps"].default >= 10_000
        for name in FILES
        if name != "ray_rllib"
    )
