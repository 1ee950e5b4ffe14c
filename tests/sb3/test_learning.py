"""MemoryPPO and MemoryA2C learn with every space and memory, and go on after loading."""

import numpy as np
import pytest
import torch

from fwagents.cores import CORES
from fwagents.sb3 import MemoryPPO

from .agents import ALGORITHMS, MEMORIES, make, weights
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RecallEnv, recall_after


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("obs", OBSERVATION_SPACES)
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_spaces(algorithm, obs, action):
    model = make(algorithm, obs, action, policy_kwargs={"critic_core": "shared"})
    before = weights(model)
    model.learn(36)
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
    assert [n for n, p in weights(model).items() if not torch.equal(p, before[n])]
    actions, _ = model.predict(model.env.reset())
    assert all(model.action_space.contains(a) for a in actions)


def test_goal_environments():
    """MemoryPPO learns from the Dict observations of one of SB3's goal environments."""
    from stable_baselines3.common.envs import BitFlippingEnv

    model = MemoryPPO("MemoryMultiInputPolicy", BitFlippingEnv(n_bits=4), n_steps=16, policy_kwargs={"hidden_size": 8})
    model.learn(64)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("memory", MEMORIES, ids=str)
def test_save_load_and_go_on(algorithm, memory, tmp_path):
    model = make(algorithm, policy_kwargs=memory, chunk_length=4)
    model.learn(36)
    model.save(tmp_path / "m.zip")
    copy = algorithm.load(tmp_path / "m.zip", env=model.env)
    assert copy.chunk_length == 4
    torch.testing.assert_close(weights(copy), weights(model), rtol=0, atol=0)
    obs = model.env.reset()
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], copy.predict(obs, deterministic=True)[0])
    copy.learn(36, reset_num_timesteps=False)
    assert copy.num_timesteps == 72
    assert algorithm.load(tmp_path / "m.zip", chunk_length=6, env=model.env).rollout_buffer.chunk_length == 6


def test_schedules_and_target_kl():
    model = make(learning_rate=lambda left: 0.01 * left, clip_range=lambda left: 0.4 * left, n_epochs=2)
    model.learn(36 * 2)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    assert model.logger.name_to_value["train/clip_range"] == pytest.approx(0.0)
    assert model._n_updates == 4
    stopped = make(learning_rate=0.1, n_epochs=5, target_kl=1e-6, batch_size=12)
    stopped.learn(36)
    assert stopped._n_updates < 5


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_solves_what_cannot_be_solved_without_memory(algorithm, core):
    model = make(
        algorithm,
        env=RecallEnv,
        n_envs=16,
        n_steps=8,
        learning_rate=3e-3,
        gae_lambda=1.0,
        seed=1,
        policy_kwargs={"core": core, "hidden_size": 16, "critic_core": "none"},
        **({"n_epochs": 2} if algorithm is MemoryPPO else {"use_rms_prop": False, "normalize_advantage": True}),
    )
    mean = recall_after(model, 16_000 if algorithm is MemoryPPO else 24_000)
    assert mean < 0.5 if core == "none" else mean > 0.9


def test_torch_s_checks_of_distributions_stay_as_they_were(monkeypatch):
    from torch.distributions import Bernoulli, Distribution

    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch.compile, in another test, turns them off
    make().learn(36)
    with pytest.raises(ValueError, match="probs"):
        Bernoulli(torch.tensor(2.0))
