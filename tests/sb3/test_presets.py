"""``for_env`` makes the agent that train/agent.py makes."""

import pytest
import torch
from stable_baselines3.common.vec_env import VecNormalize

from fwagents.sb3 import MemoryA2C, MemoryPPO
from fwagents.settings import DEFAULTS

CLASSES = {"memory_ppo": MemoryPPO, "memory_a2c": MemoryA2C}
# Another id stands for all that have no settings of their own.
CASES = [(env, "fast_weights", "memory_ppo") for env in (*DEFAULTS, "Acrobot-v1")]
CASES += [("PartialCatch-v0", "lstm", "memory_ppo"), ("CartPoleNoVel-v1", "fast_weights", "memory_a2c")]


def script_agent(monkeypatch, *argv):
    """The untrained agent of train/agent.py."""
    from fwagents.runs.agent import Args, args_for
    from fwagents.runs.cli import core_options, parse
    from fwagents.runs.run import Run

    args = parse(Args, argv, default=args_for(argv))
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
    agent = MemoryPPO.for_env(
        "CartPoleNoVel-v1",
        core_kwargs={"decay": 0.5},
        hidden_size=4,
        num_envs=2,
        normalize=False,
        lr_schedule="constant",
        learning_rate=0.5,
        batch_size=None,
    )
    assert (agent.n_envs, agent.policy.actor_core.hidden_size, agent.policy.core_kwargs) == (2, 4, {"decay": 0.5})
    assert not isinstance(agent.get_env(), VecNormalize)
    assert (agent.lr_schedule(1.0), agent.lr_schedule(0.0), agent.batch_size) == (0.5, 0.5, None)


def test_environment_arguments_reach_the_environment():
    agent = MemoryPPO.for_env("PartialCatch-v0", env_kwargs={"size": 6, "visible_frames": 2}, n_steps=5)
    assert agent.observation_space.shape == (36,)


@pytest.mark.parametrize("option", [{"total_timesteps": 5}, {"nonsense": 1}, {"lr_schedule": "cosine"}])
def test_an_option_that_is_none_is_refused(option):
    (name,) = option
    with pytest.raises((TypeError, ValueError), match=name):
        MemoryPPO.for_env("PartialCatch-v0", **option)
