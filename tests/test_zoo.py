"""RL Zoo trains with our policy and algorithms, with the same settings as train/agent.py."""

import copy
import csv
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rl_zoo3")

from stable_baselines3.common.utils import LinearSchedule

from fwagents.sb3 import MemoryCnnPolicy, MemoryMultiInputPolicy, MemoryPolicy, MemoryPPO, make_vec_env
from fwagents.settings import AGENT_CORE, DEFAULTS, defaults_for
from fwagents.zoo import sampling
from fwagents.zoo.__main__ import compute_settings, with_settings
from fwagents.zoo.hyperparams import ATARI, hyperparams_for, translated

TRAIN = Path(__file__).parent.parent / "train"
ALGORITHMS = {"ppo_lstm": "recurrent_ppo", "memory_ppo": "memory_ppo", "memory_a2c": "memory_a2c"}
SAME = ["n_steps", "n_envs", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm"]
SAME_PPO = [*SAME, "n_epochs"]


@pytest.fixture
def run_for(monkeypatch):
    """Return a function that makes the untrained agent of train/agent.py."""
    from fwagents.runs.agent import Args, options_for
    from fwagents.runs.cli import core_options
    from fwagents.runs.run import Run

    def make(env, algo):
        args = Args(**{**options_for(env, AGENT_CORE), "env": env, "algo": ALGORITHMS[algo], "normalize": False})
        return Run(args, {}, core_options(args)).model

    return make


@pytest.mark.parametrize("env", DEFAULTS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_settings_are_those_of_the_front_door(env, algo, run_for):
    setting = dict(importlib.import_module(f"fwagents.zoo.{algo}").hyperparams[env])
    ours = run_for(env, algo)
    front_door = defaults_for(env, AGENT_CORE)
    assert setting.pop("n_timesteps") == front_door["total_timesteps"]
    assert setting.pop("normalize", False) == front_door.get("normalize", False)
    assert setting.pop("policy") == "fwagents.sb3.MemoryPolicy"
    start = float(setting.pop("learning_rate").removeprefix("lin_"))
    assert start == ours.lr_schedule(1.0)
    venv = make_vec_env(env, setting.pop("n_envs"))
    theirs = type(ours)(MemoryPolicy, venv, LinearSchedule(start, 0.0, 1.0), device="cpu", **setting)
    for name in SAME if algo == "memory_a2c" else SAME_PPO:
        assert getattr(theirs, name) == getattr(ours, name), name
    for name in ("core_name", "critic_core_mode", "core_kwargs"):
        assert getattr(theirs.policy, name) == getattr(ours.policy, name), name
    shapes = [[p.shape for p in model.policy.parameters()] for model in (theirs, ours)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_there_is_a_setting_for_everything_else(algo):
    settings = hyperparams_for(algo)
    for name in ("default", "atari"):
        assert {"n_timesteps", "n_envs", "policy", "policy_kwargs", "learning_rate"} <= set(settings[name])
    assert settings["atari"]["policy"] == "fwagents.sb3.MemoryCnnPolicy"


SUITED = {
    "vector": MemoryPolicy,
    "image": MemoryCnnPolicy,
    "small_image": MemoryCnnPolicy,
    "dict": MemoryMultiInputPolicy,
    "images": MemoryMultiInputPolicy,
}


@pytest.mark.parametrize("observation", SUITED)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_policy_suits_the_observations_where_there_is_no_entry(algo, observation, tmp_path):
    """RL Zoo turns the policy's name into a class before it makes the environment."""
    from rl_zoo3.utils import get_class_by_name
    from sb3_contrib import RecurrentPPO

    from fwagents.sb3 import MemoryA2C

    from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv

    default = hyperparams_for(algo)["default"]
    make = {"ppo_lstm": RecurrentPPO, "memory_ppo": MemoryPPO, "memory_a2c": MemoryA2C}[algo]
    env = RandomEnv(OBSERVATION_SPACES[observation], ACTION_SPACES["discrete"])
    model = make(get_class_by_name(default["policy"]), env, n_steps=8, policy_kwargs={"hidden_size": 8}).learn(8)
    assert type(model.policy) is SUITED[observation]
    model.save(tmp_path / "model.zip")
    assert type(make.load(tmp_path / "model.zip").policy) is SUITED[observation]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_masks_come_in_by_a_wrapper(algo):
    from rl_zoo3.utils import get_class_by_name, get_wrapper_class
    from sb3_contrib import RecurrentPPO

    from fwagents.sb3 import MaskableMemoryPolicy, MemoryA2C

    from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, MaskedEnv

    wrap = get_wrapper_class({"env_wrapper": "fwagents.sb3.ActionMasks"})
    env = wrap(MaskedEnv(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"]))
    make = {"ppo_lstm": RecurrentPPO, "memory_ppo": MemoryPPO, "memory_a2c": MemoryA2C}[algo]
    policy = get_class_by_name(hyperparams_for(algo)["default"]["policy"])
    model = make(policy, env, n_steps=8, policy_kwargs={"hidden_size": 8}).learn(8)
    assert type(model.policy) is MaskableMemoryPolicy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"core": AGENT_CORE, "hidden_size": 256, "critic_core": "shared", "core_kwargs": {"num_heads": 8}}),
        ({"core": "gru", "hidden_size": 64}, {"core": "gru", "hidden_size": 64, "critic_core": "shared"}),
        (
            {"core_kwargs": {"num_heads": 2}},
            {"core": AGENT_CORE, "hidden_size": 256, "critic_core": "shared", "core_kwargs": {"num_heads": 2}},
        ),
    ],
    ids=str,
)
def test_options_of_the_policy_that_are_not_given_stay(given, expected):
    setting = translated("memory_ppo", {**ATARI, "core_kwargs": {"num_heads": 8}})
    setting.update({"n_steps": 7, "policy_kwargs": given})
    assert setting["policy_kwargs"] == expected
    assert (setting["n_steps"], setting["gamma"]) == (7, 0.99)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sample", [sampling.sample_memory_ppo_params, sampling.sample_memory_a2c_params])
def test_whatever_is_drawn_can_be_made(sample, seed):
    """A stored trial gives the same settings again."""
    import optuna

    from fwagents.sb3 import MemoryA2C

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    drawn = sample(trial, 3, 2, {})
    algorithm = MemoryPPO if "clip_range" in drawn else MemoryA2C
    model = algorithm("MemoryPolicy", make_vec_env("PartialCatch-v0", 2), device="cpu", **copy.deepcopy(drawn))
    assert model.n_steps % model.rollout_buffer.chunk_length == 0
    again = sampling.convert_params(trial.params)
    assert {name: again.get(name) for name in drawn} == drawn
    assert 0.9 <= model.gamma < 1


def launch(module, *args, cwd):
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=300,
    )
    return done


def test_mistakes_are_one_clear_line(tmp_path):
    done = launch("fwagents.zoo", "tain", cwd=tmp_path)
    assert done.returncode == 1
    expected = "given 'tain', expected one of train, enjoy, record_video, plot_train\n"
    assert done.stderr == f"error: python -m fwagents.zoo was {expected}"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Train MemoryPPO with the launcher; return its log folder."""
    folder = tmp_path_factory.mktemp("zoo")
    done = launch(
        *("fwagents.zoo train --algo memory_ppo --env PartialCatch-v0 --env-kwargs size:6", "--n-timesteps", 1000),
        *(
            "--eval-freq",
            500,
            "--seed",
            1,
            "--hyperparams",
            "n_envs:4",
            "n_steps:15",
            "policy_kwargs:dict(hidden_size=8)",
        ),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


OURS = ["--conf-file", "fwagents.zoo.memory_ppo"]


@pytest.mark.parametrize(
    ("given", "added"),
    [
        (["--algo", "memory_ppo"], OURS),
        (["--algo=memory_ppo", "--seed", "1"], OURS),
        (["--algo", "memory_ppo", "--conf-file", "mine.yml"], []),
        (["--algo", "memory_ppo", "--conf-file=mine.yml"], []),
        (["-conf", "mine.yml", "--algo=memory_ppo"], []),
        (["--algo", "sac"], []),
        (["--seed", "1"], []),
        (["--algo"], []),
        (["--algo", "memory_ppo", "-optimize"], [*OURS, "--log-folder", "searches"]),
        (["--algo", "sac", "--optimize-hyperparameters"], ["--log-folder", "searches"]),
        (["--algo", "memory_ppo", "-optimize", "-f", "mine"], OURS),
        (["--algo", "memory_ppo", "-optimize", "--log-folder=mine"], OURS),
    ],
    ids=" ".join,
)
def test_our_settings_are_added_where_no_others_are_named(given, added):
    assert with_settings(given) == given + added


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_our_settings_are_computed_from_the_environment_s_arguments(algo, monkeypatch):
    module = importlib.import_module(f"fwagents.zoo.{algo}")
    monkeypatch.setattr(module, "hyperparams", dict(module.hyperparams))
    compute_settings(["--algo", algo, "--env", "PartialCatch-v0", "--env-kwargs", "size:20", "name:'x'", "other:y"])
    assert module.hyperparams["PartialCatch-v0"]["n_steps"] == 19
    compute_settings(["--algo", algo, "--env", "PartialCatch-v0"])
    assert module.hyperparams["PartialCatch-v0"]["n_steps"] == 15


@pytest.mark.slow
def test_the_launcher_trains_with_our_settings_and_ours_win_over_nothing_given(logs):
    folder = logs / "logs" / "memory_ppo" / "PartialCatch-v0_1"
    assert {"PartialCatch-v0.zip", "best_model.zip", "evaluations.npz"} <= {path.name for path in folder.iterdir()}
    model = MemoryPPO.load(folder / "PartialCatch-v0.zip")
    # One option of policy_kwargs is given; the others keep our defaults.
    assert (model.n_envs, model.gamma, model.policy.critic_core_mode) == (4, 1.0, "shared")
    assert model.policy.actor_core.hidden_size == 8
    config = yaml.unsafe_load((folder / "PartialCatch-v0" / "config.yml").read_text())
    assert dict(config)["vf_coef"] == 0.05, "what is not given is ours"
    with open(next(folder.glob("*.monitor.csv"))) as file:
        next(file)
        assert {row["l"] for row in csv.DictReader(file)} == {"5"}


@pytest.mark.slow
def test_enjoy_record_video_and_plot_train_work_on_it(logs):
    which = ["--algo", "memory_ppo", "--env", "PartialCatch-v0", "-f", "logs", "--env-kwargs", "size:6"]
    done = launch("fwagents.zoo enjoy", *which, "-n", 60, "--no-render", cwd=logs)
    assert (done.returncode, "Mean episode length: 5.00" in done.stdout) == (0, True), done.stderr
    done = launch("fwagents.zoo record_video", *which, "-n", 20, cwd=logs)
    assert done.returncode == 0, done.stderr
    (film,) = logs.glob("logs/memory_ppo/*/videos/*.mp4")
    assert film.stat().st_size > 1000
    done = launch("fwagents.zoo plot_train", "-a", "memory_ppo", "-e", "PartialCatch-v0", "-f", "logs", cwd=logs)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_rl_zoo_s_own_trainer_takes_our_policy(tmp_path):
    done = launch(
        *("rl_zoo3.train --algo ppo_lstm --env PartialCatch-v0 --gym-packages fwagents.envs",),
        *("--conf-file", "fwagents.zoo.ppo_lstm", "--n-timesteps", 200, "--eval-freq", -1),
        *("--hyperparams", "n_envs:2", "batch_size:30"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (saved,) = tmp_path.glob("logs/ppo_lstm/PartialCatch-v0_1/PartialCatch-v0.zip")
    with zipfile.ZipFile(saved) as archive:
        assert "policy.pth" in archive.namelist()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["memory_ppo", "memory_a2c"])
def test_a_search(algo, tmp_path):
    done = launch(
        *(f"fwagents.zoo train --algo {algo} --env PartialCatch-v0 --hyperparams n_envs:2", "--n-timesteps", 600),
        *("-optimize", "--n-trials", 2, "--n-startup-trials", 1, "--n-evaluations", 1, "--no-optim-plots"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "logs").exists(), "where enjoy would look for a model"
    (report,) = tmp_path.glob(f"searches/{algo}/report_*.csv")
    with open(report) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert {"params_core", "params_chunk_length_pow", "params_critic_core"} <= set(rows[0])
