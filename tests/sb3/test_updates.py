"""Updates of MemoryPPO and MemoryA2C, against stock RecurrentPPO and plain Python."""

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO

from fwagents.sb3 import MemoryA2C, MemoryPPO
from fwagents.sb3.states import MemoryStates

from .agents import ALGORITHMS, CRITICS, MEMORIES, Endless, make, weights
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv, ScriptedEnv


@pytest.mark.parametrize("critic", ["detached", "separate", "none"])
@pytest.mark.parametrize("ends", [False, True])
def test_an_update_equals_stock_recurrent_ppo(critic, ends, monkeypatch):
    """With equal rollouts, weights and plain gradient descent, the weights after one update are equal."""
    kind = RandomEnv if ends else Endless
    kwargs = {
        "env": lambda: kind(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"]),
        "n_epochs": 1,
        "learning_rate": 0.1,
        "ent_coef": 0.01,
        "clip_range_vf": 0.2,
        "policy_kwargs": {"core": "lstm", "critic_core": critic, "optimizer_class": torch.optim.SGD},
    }
    stock = make(RecurrentPPO, batch_size=36, **kwargs)
    ours = make(MemoryPPO, **kwargs)
    ours.policy.load_state_dict(stock.policy.state_dict())
    ours._setup_learn(36, None)
    _, callback = stock._setup_learn(36, None)
    stock.collect_rollouts(stock.env, callback, stock.rollout_buffer, 12)
    theirs, buffer = stock.rollout_buffer, ours.rollout_buffer
    for name in (
        "observations",
        "actions",
        "rewards",
        "values",
        "log_probs",
        "episode_starts",
        "advantages",
        "returns",
    ):
        getattr(buffer, name)[...] = getattr(theirs, name)
    buffer.pos, buffer.full = 12, True
    core, critic_core = ours.policy.actor_core, ours.policy.critic_core
    buffer.states = [MemoryStates(core.initial_state(3), critic_core and critic_core.initial_state(3))]

    before = weights(ours)
    # The stock buffer first splits the rollout at a random step, which cuts the gradient.
    monkeypatch.setattr(np.random, "randint", lambda *_: 0)
    stock.train()
    ours.train()
    changed = [n for n, p in weights(ours).items() if not torch.equal(p, before[n])]
    assert len(changed) >= 6
    torch.testing.assert_close(weights(ours), weights(stock), rtol=1e-4, atol=1e-6)


# Every memory with every critic, and each of them with every chunk length.
CHUNKED = [
    (memory, critic, (None, 4, 1)[(i + j) % 3]) for i, memory in enumerate(MEMORIES) for j, critic in enumerate(CRITICS)
]


@pytest.mark.parametrize(("memory", "critic", "chunk_length"), CHUNKED, ids=str)
def test_rollout_and_first_epoch_agree(memory, critic, chunk_length):
    """The ratio is 1 up to 1e-5, in the first rollout and in one that begins in the middle of episodes."""
    kwargs = {"policy_kwargs": {**memory, "critic_core": critic}, "learning_rate": 0.0}
    model = make(chunk_length=chunk_length, **kwargs)
    for rollouts in (1, 2):
        model.learn(36 * rollouts, reset_num_timesteps=False)
        assert model.rollout_buffer.episode_starts[1:].any()
        seen = 0
        for chunks in model.rollout_buffer.get(12):
            with torch.no_grad():
                values, log_prob, _ = model.policy.evaluate_chunks(chunks)
            torch.testing.assert_close(
                (log_prob - chunks.old_log_prob).exp(), torch.ones_like(log_prob), rtol=0, atol=1e-5
            )
            torch.testing.assert_close(values, chunks.old_values, rtol=1e-5, atol=1e-5)
            seen += values.numel()
        assert seen == 36


def test_nothing_leaks_across_episode_starts():
    """Changed observations before an episode's start change nothing after it."""
    model = make(policy_kwargs={"critic_core": "separate"})
    model.learn(36)
    chunks = model.rollout_buffer.chunks()
    start = torch.zeros_like(chunks.start)
    start[5] = True
    other = chunks.observations.clone()
    other[:5] = 3.0
    with torch.no_grad():
        one = model.policy.evaluate_chunks(chunks._replace(start=start))
        two = model.policy.evaluate_chunks(chunks._replace(start=start, observations=other))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a[5:], b[5:], rtol=0, atol=0)
        assert not torch.equal(a[:5], b[:5])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("critic", CRITICS)
def test_returns_in_plain_python(algorithm, critic):
    """Compute GAE over a script that truncates at step 3 and terminates at step 7.

    A truncation bootstraps from the value of the final observation, under the state after the episode's last step; a
    termination does not bootstrap; the rollout's end bootstraps from the value of the next observation.
    """
    gamma, lam = 0.9, 0.8
    model = make(
        algorithm,
        env=lambda: ScriptedEnv(truncate=[3], terminate=[7]),
        n_envs=1,
        n_steps=11,
        gamma=gamma,
        gae_lambda=lam,
        learning_rate=0.0,
        policy_kwargs={"critic_core": critic},
    )
    model.learn(11)
    script = ScriptedEnv.observations

    def value(history):
        """Return the value of an episode's last observation, computed from the episode's start."""
        obs = torch.as_tensor(np.stack(history))
        features, critic_features = model.policy.encode(obs)
        latent = model.policy.actor_core(features.unsqueeze(1))[0][-1]
        if critic == "separate":
            latent = model.policy.critic_core(critic_features.unsqueeze(1))[0][-1]
        if critic == "none":
            latent = model.policy.critic(critic_features[-1:])
        with torch.no_grad():
            return model.policy.value_net(latent).item()

    episodes = [(0, 3, "truncated"), (3, 7, "terminated"), (7, 11, "cut")]
    for begin, end, how in episodes:
        values = [value(script[begin : t + 1]) for t in range(begin, end)]
        # After a truncation the script shows its next observation twice: as the final and as the first one.
        after = 0.0 if how == "terminated" else value(script[begin : end + 1])
        advantage, nexts = 0.0, [*values[1:], after]
        for t in reversed(range(begin, end)):
            delta = ScriptedEnv.rewards[t] + gamma * nexts[t - begin] - values[t - begin]
            advantage = delta + gamma * lam * advantage
            assert model.rollout_buffer.advantages[t, 0] == pytest.approx(advantage, abs=1e-5), (how, t)
            assert model.rollout_buffer.returns[t, 0] == pytest.approx(advantage + values[t - begin], abs=1e-5)


def test_a2c_equals_ppo_with_one_epoch_and_no_clipping():
    # Other optimizers divide by the gradient's size, which amplifies the rounding of small gradients.
    optimizer = {"optimizer_class": torch.optim.SGD}
    common = {"n_steps": 12, "learning_rate": 1e-2, "gae_lambda": 0.9, "ent_coef": 0.01}
    a2c = make(MemoryA2C, policy_kwargs=optimizer, **common)
    ppo = make(MemoryPPO, policy_kwargs=optimizer, n_epochs=1, clip_range=1e9, normalize_advantage=False, **common)
    torch.testing.assert_close(weights(a2c), weights(ppo), rtol=0, atol=0)
    before = weights(a2c)
    for model in (a2c, ppo):
        torch.manual_seed(5)
        model.learn(72)
    assert any(not torch.equal(p, before[n]) for n, p in weights(a2c).items())
    torch.testing.assert_close(weights(a2c), weights(ppo), rtol=1e-5, atol=1e-7)


def test_the_memory_goes_on_from_rollout_to_rollout():
    """The second rollout begins with the state at the end of the first."""
    model = make(env=lambda: Endless(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"]), learning_rate=0.0)
    model.learn(36)
    chunks = model.rollout_buffer.chunks()
    with torch.no_grad():
        features, _ = model.policy.encode(chunks.observations.flatten(0, 1))
        _, last = model.policy.actor_core(features.view(12, 3, -1), None, chunks.start)
    model.learn(36, reset_num_timesteps=False)
    torch.testing.assert_close(model.rollout_buffer.states[0].actor, last, rtol=1e-5, atol=1e-5)
    assert all(leaf.abs().max() > 0 for leaf in last)


@pytest.mark.parametrize("critic", CRITICS)
def test_refreshed_states_are_those_of_the_present_weights(critic):
    model = make(chunk_length=3, policy_kwargs={"critic_core": critic})
    model.learn(36)
    buffer = model.rollout_buffer
    stale = [leaf.clone() for leaf in buffer.states[3].actor]
    model.policy.refresh_states(buffer)
    chunks, first = buffer.chunks(np.arange(12)), buffer.states[0]
    obs = torch.as_tensor(buffer.observations[:9]).flatten(0, 1)
    start = torch.as_tensor(buffer.episode_starts[:9]) > 0.5
    with torch.no_grad():
        features, critic_features = model.policy.encode(obs)
        _, actor = model.policy.actor_core(features.view(9, 3, -1), first.actor, start)
        torch.testing.assert_close(buffer.states[3].actor, actor)
        if critic == "separate":
            _, own = model.policy.critic_core(critic_features.view(9, 3, -1), first.critic, start)
            torch.testing.assert_close(buffer.states[3].critic, own)
    assert not all(map(torch.allclose, stale, buffer.states[3].actor))
    for leaf, refreshed in zip(chunks.states.actor, buffer.states[3].actor, strict=True):
        torch.testing.assert_close(leaf[9:], refreshed, rtol=0, atol=0)
    make(chunk_length=3, refresh_states=True, n_epochs=3).learn(72)
