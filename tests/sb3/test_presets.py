"""``for_env`` makes the agent that train/agent.py makes."""

import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecNormalize

from fwagents.runs import agent, search
from fwagents.runs.cli import core_options, parse
from fwagents.runs.run import Run
from fwagents.sb3 import MemoryA2C, MemoryPPO
from fwagents.settings import AGENT_CORE, DEFAULTS

CLASSES = {"memory_ppo": MemoryPPO, "memory_a2c": MemoryA2C}
# The other id represents all environments without their own settings.
CASES = [(env, AGENT_CORE, "memory_ppo") for env in (*DEFAULTS, "Acrobot-v1")]
CASES += [("PartialCatch-v0", "lstm", "memory_ppo"), ("CartPoleNoVel-v1", "fast_weights", "memory_ppo")]
CASES += [("CartPoleNoVel-v1", AGENT_CORE, "memory_a2c")]


def script_agent(monkeypatch, *argv):
    """Return the untrained agent of train/agent.py."""
    args = parse(agent.Args, argv, default=agent.args_for(argv))
    return Run(args, {}, core_options(args)).model


@pytest.mark.parametrize(("env", "core", "algo"), CASES)
def test_the_command_lines_agent(env, core, algo, monkeypatch):
    theirs = script_agent(monkeypatch, "--env", env, "--core", core, "--algo", algo, "--seed", "3")
    ours = CLASSES[algo].for_env(env, core=core, seed=3)
    assert type(ours) is type(theirs)
    assert type(ours.get_env()) is type(theirs.get_env())
    assert isinstance(ours.get_env(), VecNormalize) == DEFAULTS.get(env, {}).get("normalize", False)
    for name, value in vars(theirs).items():
        if isinstance(value, (int, float, str, bool, type(None))):
            assert getattr(ours, name) == value, name
    for progress in (1.0, 0.4, 0.0):
        assert ours.lr_schedule(progress) == theirs.lr_schedule(progress)
    for (name, here), there in zip(ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True):
        assert torch.equal(here, there), name


def test_trains_as_the_command_lines_agent(monkeypatch):
    theirs = script_agent(monkeypatch, "--env", "PartialCatch-v0", "--seed", "3").learn(2 * 64 * 15)
    ours = MemoryPPO.for_env("PartialCatch-v0", seed=3).learn(2 * 64 * 15)
    assert all(map(torch.equal, ours.policy.parameters(), theirs.policy.parameters()))


def test_options_win_over_the_settings():
    made = MemoryPPO.for_env(
        "CartPoleNoVel-v1",
        core="fast_weights",
        core_kwargs={"decay": 0.5},
        hidden_size=4,
        num_envs=2,
        normalize=False,
        lr_schedule="constant",
        learning_rate=0.5,
        batch_size=None,
    )
    assert (made.n_envs, made.policy.actor_core.hidden_size, made.policy.core_kwargs) == (2, 4, {"decay": 0.5})
    assert not isinstance(made.get_env(), VecNormalize)
    assert (made.lr_schedule(1.0), made.lr_schedule(0.0), made.batch_size) == (0.5, 0.5, None)


def zoo_core(algo):
    """Return the core, which is the same in all settings of RL Zoo."""
    pytest.importorskip("rl_zoo3")
    from fwagents.zoo.hyperparams import hyperparams_for

    (core,) = {setting["policy_kwargs"]["core"] for setting in hyperparams_for(algo).values()}
    return core


ENTRY_POINTS = {
    "RecurrentPPO": lambda: RecurrentPPO("MemoryPolicy", "PartialCatch-v0").policy.core_name,
    "MemoryPPO": lambda: MemoryPPO("MemoryPolicy", "PartialCatch-v0").policy.core_name,
    "MemoryPPO.for_env": lambda: MemoryPPO.for_env("PartialCatch-v0").policy.core_name,
    "MemoryA2C.for_env": lambda: MemoryA2C.for_env("PartialCatch-v0").policy.core_name,
    "fwagents agent": lambda: parse(agent.Args, [], default=agent.args_for([])).core,
    "fwagents tune": lambda: parse(search.Args, []).core,
    "RL Zoo, ppo_lstm": lambda: zoo_core("ppo_lstm"),
    "RL Zoo, memory_ppo": lambda: zoo_core("memory_ppo"),
    "RL Zoo, memory_a2c": lambda: zoo_core("memory_a2c"),
}


@pytest.mark.parametrize("core", ENTRY_POINTS.values(), ids=ENTRY_POINTS)
def test_rotary_fast_weights_are_the_default_everywhere(core):
    assert core() == "rotary_fast_weights"


def test_environment_arguments_reach_the_environment():
    made = MemoryPPO.for_env("PartialCatch-v0", env_kwargs={"size": 6, "visible_frames": 2}, n_steps=5)
    assert made.observation_space.shape == (36,)


@pytest.mark.parametrize("option", [{"total_timesteps": 5}, {"nonsense": 1}, {"lr_schedule": "cosine"}])
def test_an_option_that_is_none_is_refused(option):
    (name,) = option
    with pytest.raises((TypeError, ValueError), match=name):
        MemoryPPO.for_env("PartialCatch-v0", **option)
