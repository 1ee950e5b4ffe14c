"""Saved policies come back bitwise, without pickle, with all that they need to play."""

import pickle

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from fwagents.export import Normalization, load_policy, save_policy
from fwagents.inspection import trace

from .exported import AGENTS, agent, normalization


@pytest.mark.parametrize("name", AGENTS)
def test_weights_load_without_pickle(name, tmp_path, monkeypatch):
    model, env = agent(name)
    save_policy(model.policy, tmp_path / "agent")
    assert {path.name for path in tmp_path.iterdir()} == {"agent.json", "agent.safetensors"}

    def refused(*_, **__):
        raise AssertionError("a pickle was read")

    with monkeypatch.context() as patch:  # only here, since the compiled kernels are stored as pickles
        for function in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, function, refused)
        loaded = load_policy(tmp_path / "agent")
    assert type(loaded.policy) is type(model.policy)
    assert loaded.policy.observation_space == model.policy.observation_space
    weights = model.policy.state_dict()
    assert set(loaded.policy.state_dict()) == set(weights)
    for key, value in loaded.policy.state_dict().items():
        assert torch.equal(value, weights[key]), key
    there, here = (trace(player, env, episodes=2, seed=3) for player in (model, loaded))
    np.testing.assert_array_equal(there.actions, here.actions)
    np.testing.assert_array_equal(there.values, here.values)


@pytest.mark.parametrize("observe", [(), ("reward",), ("action", "reward")])
def test_what_the_agent_was_told_travels(observe, tmp_path):
    save_policy(agent("gru")[0].policy, tmp_path / "agent", observe=observe)
    assert load_policy(tmp_path / "agent").observe == observe


def test_normalization_travels(tmp_path):
    model, env = agent("fast_weights", share_features_extractor=False, activation_fn=nn.ReLU, net_arch=[4])
    normalizer, own = normalization(env)
    save_policy(model.policy, tmp_path / "agent", own)
    loaded = load_policy(tmp_path / "agent")
    obs = 20 * np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_array_equal(loaded.normalization(obs), normalizer.normalize_obs(obs))
    torch.testing.assert_close(
        loaded.normalization(torch.from_numpy(obs)), torch.from_numpy(normalizer.normalize_obs(obs))
    )
    first, second = (
        loaded.predict(obs, deterministic=True),
        model.predict(normalizer.normalize_obs(obs), deterministic=True),
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert Normalization.of(VecNormalize(DummyVecEnv([lambda: env]), norm_obs=False)) is None
