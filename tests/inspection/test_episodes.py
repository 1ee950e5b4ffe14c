"""Traces of trained agents, against the agent's own step-by-step results."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from fwagents.cores import CORES
from fwagents.inspection import Trace, trace
from fwagents.sb3 import MemoryA2C, MemoryPPO

from ..sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv

SMALL = {"hidden_size": 8}
MODELS = {"ppo": MemoryPPO, "a2c": MemoryA2C, "recurrent_ppo": RecurrentPPO}


def agent(algorithm="ppo", obs="vector", action="discrete", **policy_kwargs):
    env = RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES[action])
    return MODELS[algorithm](POLICIES[obs], env, n_steps=8, seed=0, policy_kwargs={**SMALL, **policy_kwargs}), env


class Stepping:
    """Record the model's own step-by-step results as it plays."""

    def __init__(self, model):
        self.model, self.said = model, []

    def __call__(self, obs, state, start, deterministic):
        policy = self.model.policy
        before = state
        action, state = type(policy).predict(policy, obs, state, start, deterministic)
        tensor, _ = policy.obs_to_tensor(obs)
        n = policy.lstm_hidden_state_shape[-1]
        zeros = np.zeros((1, 1, n), np.float32)
        pair = tuple(torch.from_numpy(half) for half in ((zeros, zeros) if before is None else before))
        with torch.no_grad():
            distribution, _ = policy.get_distribution(tensor, pair, torch.tensor([float(before is None)]))
        self.said.append((obs, action, distribution.distribution))
        return action, state


@pytest.mark.parametrize("algorithm", MODELS)
@pytest.mark.parametrize("core", CORES)
def test_what_the_agent_said_step_by_step(algorithm, core, monkeypatch):
    model, env = agent(algorithm, core=core)
    watched = Stepping(model)
    monkeypatch.setattr(model.policy, "predict", watched)
    found = trace(model, env, episodes=3, seed=5)
    assert found.length.sum() == len(watched.said)
    steps = iter(watched.said)
    for b in range(3):
        for t in range(found.length[b]):
            obs, action, distribution = next(steps)
            np.testing.assert_array_equal(found.observations[t, b], obs)
            assert found.actions[t, b] == action
            np.testing.assert_allclose(found.probabilities[t, b], distribution.probs[0], rtol=1e-4, atol=1e-6)


def test_the_distribution_of_a_continuous_action():
    """The most likely action is the mean, and the deviation is the one that the policy began with."""
    env = RandomEnv(OBSERVATION_SPACES["vector"], ACTION_SPACES["box"])
    model = MemoryPPO("MemoryPolicy", env, n_steps=8, seed=0, policy_kwargs={**SMALL, "log_std_init": -1.0})
    found = trace(model, env, seed=5)
    assert (found.probabilities, found.choices) == (None, None)
    np.testing.assert_allclose(found.deviations, np.full(found.actions.shape, np.exp(-1)), rtol=1e-5)
    np.testing.assert_allclose(np.clip(found.means, -1, 1), found.actions, atol=1e-5)
    assert np.ptp(found.means) > 0


def played(model, env, seed):
    """Play one episode by hand; return rewards, values and the actor core's state before every step."""
    policy, obs = model.policy, env.reset(seed=seed)[0]
    stepper = policy.actor_core.stepper(1)
    critic = policy.critic_core.stepper(1) if policy.critic_core is not None else None
    state, over, rewards, values, states = None, False, [], [], []
    while not over:
        with torch.no_grad():
            features, critic_features = policy.encode(policy.obs_to_tensor(obs)[0])
            states.append(stepper.state)
            latent = stepper.step(features)
            read = latent if policy.critic is None else policy.critic(critic_features)
            read = read if critic is None else critic.step(critic_features)
            value = policy.value_net(read)
        action, state = model.predict(obs, state, np.array([state is None]), deterministic=True)
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        values.append(value.item())
        over = terminated or truncated
    return rewards, values, states


@pytest.mark.parametrize("critic", ["shared", "detached", "separate", "none"])
def test_values_rewards_and_reads(critic):
    """At every step of an agent, the attention adds up to the read of its A."""
    model, env = agent(core="fast_weights", critic_core=critic)
    found = trace(model, env, episodes=2, seed=3)
    for b in range(2):
        rewards, values, states = played(model, env, 3 + b)
        assert found.length[b] == len(rewards)
        np.testing.assert_allclose(found.rewards[: len(rewards), b], rewards)
        np.testing.assert_allclose(found.values[: len(rewards), b], values, rtol=1e-4, atol=1e-6)
        for t, state in enumerate(states):
            read = found.attention[t, b, 0] @ found.written[:, b, 0]
            np.testing.assert_allclose(read, found.queries[t, b, 0] @ state.A[0].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("core", ["sum_rule", "delta_net", "gated_delta_net", "rotary_fast_weights"])
def test_reads_of_programmers_give_the_outputs(core):
    """The parts add up, through the output gate if there is one, to the core's output."""
    model, env = agent(core=core, core_kwargs={"num_heads": 2})
    found = trace(model, env, episodes=3, seed=3)
    read = torch.from_numpy(np.einsum("tbhsu,ubhe->tbhe", found.attention, found.written)).flatten(2)
    gate = model.policy.actor_core.output_gate
    with torch.no_grad():
        outputs = read if gate is None else gate(read, torch.from_numpy(found.inputs))
    np.testing.assert_allclose(outputs.numpy()[found.valid], found.hidden[found.valid], rtol=1e-3, atol=1e-5)
    assert found.reads_own_write


@pytest.mark.parametrize("core", ["fast_weights", "rotary_fast_weights"])
def test_episodes_of_different_length(core):
    model, env = agent(core=core)
    found = trace(model, env, episodes=4, seed=0)
    assert len(set(found.length)) > 1
    over = ~found.valid
    for name in (
        "hidden",
        "keys",
        "written",
        "attention",
        "norm",
        "values",
        "probabilities",
        "rewards",
        "observations",
    ):
        assert not getattr(found, name)[over].any(), name
    for b in range(4):
        alone = trace(model, env, seed=b)
        row = found.row(b)
        np.testing.assert_allclose(row.attention, alone.attention, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(row.actions, alone.actions)


@pytest.mark.parametrize("obs", OBSERVATION_SPACES)
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_spaces(obs, action, tmp_path):
    model, env = agent(obs=obs, action=action)
    found = trace(model, env, episodes=2, seed=1, deterministic=False, attribution=True)
    T = found.length.max()
    assert found.actions.shape == (T, 2, *env.action_space.shape)
    columns = {"box": None, "discrete": 3, "multi_discrete": 5, "multi_binary": 3}[action]
    assert (None if found.probabilities is None else found.probabilities.shape[-1]) == columns
    counts = {"box": None, "discrete": [3], "multi_discrete": [2, 3], "multi_binary": [1, 1, 1]}[action]
    assert (None if found.choices is None else found.choices.tolist()) == counts
    assert found.attribution.shape == (T, 2, T)
    assert found.attribution[0, 0, 0] > 0
    found.save(tmp_path / "trace.npz")
    same = Trace.load(tmp_path / "trace.npz")
    if isinstance(OBSERVATION_SPACES[obs], gym.spaces.Dict):
        assert same.observations.keys() == OBSERVATION_SPACES[obs].spaces.keys()
        for part, values in same.observations.items():
            np.testing.assert_array_equal(values, found.observations[part])
    else:
        np.testing.assert_array_equal(same.observations, found.observations)


@pytest.mark.parametrize("action", ACTION_SPACES)
def test_attribution_is_by_the_observations(action):
    """Compare with finite differences of the last action's logit by the observations."""
    model, env = agent(action=action)
    found = trace(model, env, seed=2, attribution=True)
    assert found.attribution[0, 0, 0] > 1e-4
    T, policy = int(found.length[0]), model.policy
    assert T > 1

    def score(observations):
        x = torch.from_numpy(observations)
        with torch.no_grad():
            y, _ = policy.actor_core(policy.encode(x)[0].unsqueeze(1))
            distribution = policy.distribution(y[-1], x)
        if action == "box":
            return distribution.get_actions(deterministic=True).sum().item()
        taken = torch.from_numpy(found.actions[T - 1])
        parts = distribution.distribution if action == "multi_discrete" else [distribution.distribution]
        columns = taken.unbind(-1) if action == "multi_discrete" else [taken]
        p = torch.cat([part.log_prob(column).exp().flatten() for part, column in zip(parts, columns, strict=True)])
        return (p / (1 - p)).log().sum().item()

    for tau in (0, T - 1):
        slopes = []
        for d in range(5):
            values = []
            for step in (1e-2, -1e-2):
                nudged = found.observations[:T, 0].copy()
                nudged[tau, d] += step
                values.append(score(nudged))
            slopes.append((values[0] - values[1]) / 2e-2)
        assert found.attribution[T - 1, 0, tau] == pytest.approx(np.linalg.norm(slopes), rel=0.05, abs=1e-4)


def test_normalised_observations_are_what_is_recorded():
    model, env = agent()
    plain, doubled = (trace(model, env, seed=2, normalize_obs=f).observations for f in (None, lambda obs: 2 * obs))
    np.testing.assert_array_equal(2 * plain[0], doubled[0])


def test_pictures():
    model = MemoryPPO("MemoryPolicy", "PartialCatch-v0", n_steps=15, policy_kwargs=SMALL)
    for mode in ("ansi", "rgb_array"):
        env = gym.make("PartialCatch-v0", render_mode=mode)
        found = trace(model, env, episodes=2, seed=0)
        assert found.screens.shape[:2] == (16, 2)
        env.reset(seed=1)
        first = env.render()
        assert (found.screens[0, 1] == first).all() if mode == "rgb_array" else found.screens[0, 1] == first
        assert found.row(1).screens.shape[:2] == (16, 1)
    assert trace(model, gym.make("PartialCatch-v0"), seed=0).screens is None


def test_what_cannot_be_traced():
    model, env = agent()
    with pytest.raises(ValueError, match="episodes is 0"):
        trace(model, env, episodes=0)
    with pytest.raises(TypeError, match="expected a MemoryPolicy"):
        trace(PPO("MlpPolicy", env, n_steps=8, batch_size=8), env)
