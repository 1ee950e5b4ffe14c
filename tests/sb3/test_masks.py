"""Action masks with a memory, against softmaxes by hand and against sb3-contrib's MaskablePPO."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import nn

from fwagents.cores import CORES
from fwagents.inspection import trace
from fwagents.inspection.film import as_shown
from fwagents.sb3 import ActionMasks, MaskableMemoryPolicy, MemoryA2C, MemoryPPO, VecActionMasks, make_vec_env
from fwagents.sb3.faults import EnvironmentFault
from fwagents.sb3.masks import checked, random_legal
from fwagents.sb3.normalizing import normalized
from fwagents.sb3.registry import policy_for
from fwagents.sb3.states import MemoryStates
from fwagents.sb3.vec_env import GymnasiumVecEnv

from .test_vec_env import assert_same_step, same_obs
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, DoorsEnv, MaskedEnv, RecallEnv

ACTIONS = ["discrete", "multi_discrete", "multi_binary"]
ALGORITHMS = [MemoryPPO, MemoryA2C, RecurrentPPO]
POLICY = {"core": "gru", "hidden_size": 4}
COUNT = 2


def masked_env(obs="vector", act="discrete"):
    return MaskedEnv(copy.deepcopy(OBSERVATION_SPACES[obs]), copy.deepcopy(ACTION_SPACES[act]))


def masked_venv(obs="vector", act="discrete"):
    venv = VecActionMasks(VecMonitor(DummyVecEnv([lambda: masked_env(obs, act)] * COUNT)))
    venv.seed(3)
    return venv


def agent(algorithm=MemoryPPO, obs="vector", act="discrete", **kwargs):
    kwargs = {"n_steps": 8, "seed": 0, "device": "cpu", "policy_kwargs": POLICY, **kwargs}
    return algorithm("MaskableMemoryPolicy", masked_venv(obs, act), **kwargs)


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("obs", ["vector", "image", "dict"])
def test_a_batch_is_the_wrapper_around_each_environment(obs, act):
    """With actions of sb3-contrib's masks, which the environment checks."""
    ours = masked_venv(obs, act)
    theirs = VecMonitor(DummyVecEnv([lambda: ActionMasks(masked_env(obs, act))] * COUNT))
    theirs.seed(3)
    assert ours.observation_space == theirs.observation_space
    seen = ours.reset()
    assert same_obs(seen, theirs.reset())
    ends = 0
    for _ in range(50):
        np.testing.assert_array_equal(seen["action_masks"], get_action_masks(ours))
        step = ours.step(random_legal(get_action_masks(ours), ours.action_space))
        assert_same_step(step, theirs.step(ours.unwrapped.actions))
        seen = step[0]
        for i in np.flatnonzero(step[2]):
            assert step[3][i]["terminal_observation"]["action_masks"].all(), "no action follows"
            ends += 1
    assert ends > 2


def test_a_random_player_draws_every_legal_action_equally_often():
    masks = np.tile(np.array([0, 1, 1, 0, 1], np.int8), (6000, 1))
    drawn = random_legal(masks, spaces.MultiDiscrete([2, 3]))
    assert drawn.shape == (6000, 2)
    assert set(drawn[:, 0]) == {1}
    assert np.bincount(drawn[:, 1]) / 6000 == pytest.approx([0.5, 0, 0.5], abs=0.03)


class Rows(VectorEnv):
    """A native batch; row i may take the actions up to i + t."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 -- as in Gymnasium

    def __init__(self, num_envs):
        self.num_envs, self.t = num_envs, 0
        self.single_observation_space, self.single_action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(6)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros((self.num_envs, 1), np.float32), {}

    def action_masks(self):
        return np.arange(6) <= np.arange(self.num_envs)[:, None] + self.t

    def step(self, actions):
        assert self.action_masks()[np.arange(self.num_envs), actions].all()
        self.t = min(self.t + 1, 2)
        none = np.zeros(self.num_envs)
        return np.zeros((self.num_envs, 1), np.float32), none, none > 0, none > 0, {}


def test_a_native_batch_has_a_row_for_each_environment():
    env = VecActionMasks(GymnasiumVecEnv(Rows(3)))
    assert env.reset()["action_masks"].tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert env.step(np.array([0, 1, 2]))[0]["action_masks"].sum(1).tolist() == [2, 3, 4]
    MemoryPPO("MaskableMemoryPolicy", env, n_steps=8, policy_kwargs=POLICY, device="cpu").learn(24)


def likelihoods(policy, latent, obs):
    """Logarithms of the probabilities, and the entropy, of softmaxes over the legal logits, one action at a time."""
    logits = policy.action_net(latent)
    space = policy.action_space
    counts = {"Discrete": lambda: [space.n], "MultiDiscrete": lambda: list(space.nvec), "MultiBinary": lambda: [2] * 3}
    columns = np.cumsum([0, *counts[type(space).__name__]()])
    rows = []
    for row, mask in zip(logits, obs["action_masks"].bool(), strict=True):
        parts = []
        for begin, end in pairwise(columns):
            legal = row[begin:end][mask[begin:end]].log_softmax(-1)
            whole = torch.full((end - begin,), -torch.inf).masked_scatter(mask[begin:end], legal)
            parts.append((whole, -(legal.exp() * legal).sum()))
        rows.append(parts)
    return rows


@pytest.mark.parametrize("act", ACTIONS)
def test_only_legal_actions_have_a_probability_and_a_gradient(act):
    policy = agent(act=act).policy
    nn.init.normal_(policy.action_net.weight)
    logits = []
    policy.action_net.register_forward_hook(lambda *call: logits.append(call[2]) or call[2].retain_grad())
    venv = masked_venv(act=act)
    for _ in range(4):
        obs = policy.obs_to_tensor(venv.reset())[0]
        latent = torch.randn(COUNT, 4)
        distribution = policy.distribution(latent, obs)
        actions = distribution.sample()
        log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        (log_prob + entropy).sum().backward()
        illegal = ~obs["action_masks"].bool()
        assert (logits[-1].grad[illegal] == 0).all()
        parts = distribution.distributions if act != "discrete" else [distribution.distribution]
        assert (torch.cat([part.probs for part in parts], -1)[illegal] == 0).all()
        by_hand = likelihoods(policy, latent, obs)
        for i, chosen in enumerate(actions.view(COUNT, -1).tolist()):
            one = sum(whole[choice] for choice, (whole, _) in zip(chosen, by_hand[i], strict=True))
            torch.testing.assert_close(log_prob[i], one)
            torch.testing.assert_close(entropy[i], sum(part[1] for part in by_hand[i]))
    assert any(grad.abs().sum() > 0 for grad in [policy.action_net.weight.grad])


@pytest.mark.parametrize("act", ACTIONS)
def test_without_memory_it_is_maskable_ppo(act):
    """Same weights, same rollout: the same likelihoods, entropies and values, and the same step of plain descent."""
    raw = DummyVecEnv([lambda: masked_env(act=act)] * COUNT)
    kwargs = {"n_steps": 16, "n_epochs": 1, "batch_size": 16 * COUNT, "max_grad_norm": 1e9, "ent_coef": 0.1}
    kwargs |= {"learning_rate": 0.1, "seed": 0, "device": "cpu"}
    descent = {"optimizer_class": torch.optim.SGD, "features_extractor_class": FlattenExtractor}
    layers = {"net_arch": {"pi": [8], "vf": [8]}, "activation_fn": nn.ReLU}
    theirs = MaskablePPO("MlpPolicy", raw, policy_kwargs={**descent, **layers}, **kwargs)
    plain = {"core": "none", "hidden_size": 8, **descent}
    ours = MemoryPPO("MaskableMemoryPolicy", VecActionMasks(raw), policy_kwargs=plain, **kwargs)
    for model in (theirs, ours):
        model.set_logger(Logger(None, []))
    modules = [
        (ours.policy.actor_core, theirs.policy.mlp_extractor.policy_net[0]),
        (ours.policy.critic_core, theirs.policy.mlp_extractor.value_net[0]),
    ]
    weights = [pair for core, layer in modules for pair in ((core.weight_ih, layer.weight), (core.bias, layer.bias))]
    for name in ("action_net", "value_net"):
        head, same = getattr(ours.policy, name), getattr(theirs.policy, name)
        nn.init.normal_(same.weight)
        weights += [(head.weight, same.weight), (head.bias, same.bias)]
    with torch.no_grad():
        for own, other in weights:
            own.copy_(other)
    assert len(weights) == len(list(ours.policy.parameters()))

    _, callback = theirs._setup_learn(0)
    theirs.collect_rollouts(raw, callback, theirs.rollout_buffer, 16)
    kept, buffer = copy.deepcopy(theirs.rollout_buffer), ours.rollout_buffer
    buffer.reset()
    buffer.add_states(MemoryStates(*(core.initial_state(COUNT) for core in ours.policy.cores.values())))
    buffer.observations = {"observation": kept.observations, "action_masks": kept.action_masks.astype(np.int8)}
    for name in ("rewards", "values", "log_probs", "advantages", "returns", "episode_starts"):
        getattr(buffer, name)[:] = getattr(kept, name)
    buffer.actions[:] = kept.actions
    buffer.full = True

    found = [part.flatten() for part in ours.policy.evaluate_chunks(buffer.chunks())]
    flat = [torch.as_tensor(x).flatten(0, 1) for x in (kept.observations, kept.actions, kept.action_masks)]
    actions = flat[1].long().flatten() if act == "discrete" else flat[1]
    expected = [part.flatten() for part in theirs.policy.evaluate_actions(flat[0], actions, action_masks=flat[2])]
    torch.testing.assert_close(found, expected)

    before = [other.clone() for _, other in weights]
    theirs.train()
    ours.train()
    moved = [torch.stack([own - old, other - old]) for (own, other), old in zip(weights, before, strict=True)]
    for ours_moved, theirs_moved in moved:
        torch.testing.assert_close(ours_moved, theirs_moved, rtol=1e-3, atol=1e-6)
        assert theirs_moved.abs().max() > 1e-5


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_and_evaluation_play_legal_actions(algorithm, act, tmp_path):
    """The environment refuses any other."""
    model = agent(algorithm, act=act)
    callback = EvalCallback(masked_venv(act=act), n_eval_episodes=3, eval_freq=8, verbose=0, warn=False)
    model.learn(32, callback)
    assert callback.last_mean_reward > 0
    for deterministic in (True, False):
        evaluate_policy(model, model.get_env(), n_eval_episodes=3, deterministic=deterministic)
    model.save(tmp_path / "agent.zip")
    again = algorithm.load(tmp_path / "agent.zip", device="cpu", env=masked_venv(act=act))
    obs, start = again.get_env().reset(), np.ones(COUNT, bool)
    ours, theirs = (each.predict(obs, episode_start=start, deterministic=True) for each in (again, model))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    again.learn(16)


@pytest.mark.parametrize("core", CORES)
def test_every_core(core):
    """A replayed rollout has the likelihoods that it was drawn with."""
    model = agent(policy_kwargs={"core": core, "hidden_size": 8}, n_epochs=1, learning_rate=0.0)
    model.learn(16)
    chunks = model.rollout_buffer.chunks()
    with torch.no_grad():
        _, log_prob, _ = model.policy.evaluate_chunks(chunks)
    torch.testing.assert_close(log_prob, chunks.old_log_prob, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("obs", ["vector", "image", "dict"])
def test_the_encoder_is_that_of_the_rest(obs):
    """Neither the latents nor the value depend on the masks."""
    policy = agent(obs=obs).policy
    plain = MemoryPPO(policy_for(OBSERVATION_SPACES[obs]), masked_env(obs), policy_kwargs=POLICY, device="cpu").policy
    assert policy.features_extractor_class is plain.features_extractor_class
    assert sum(p.numel() for p in policy.parameters()) == sum(p.numel() for p in plain.parameters())
    seen = policy.obs_to_tensor(masked_venv(obs).reset())[0]
    other = {**seen, "action_masks": 1 - seen["action_masks"]}
    torch.testing.assert_close(policy.encode(seen), policy.encode(other), rtol=0, atol=0)


def test_predict_takes_masks_beside_the_observation():
    model, venv = agent(), masked_venv()
    obs = venv.reset()
    own, masks, start = obs["observation"], obs["action_masks"], np.ones(COUNT, bool)
    expected = model.predict(obs, None, start, deterministic=True)
    found = model.predict(own, None, start, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    for choice in range(3):
        forced = np.eye(3, dtype=bool)[choice]
        assert model.predict(obs, action_masks=np.stack([forced] * COUNT))[0].tolist() == [choice] * COUNT
        single, _ = model.predict(own[0], action_masks=forced)
        assert (single.shape, int(single)) == ((), choice)


def test_a_cut_episode_is_bootstrapped_from():
    """Its last observation has masks too; the value does not read them."""
    model = agent(n_steps=32)
    seen = []
    values_after = model.policy.values_after
    model.policy.values_after = lambda obs, *rest: seen.append(obs) or values_after(obs, *rest)
    model.learn(64)
    assert len(seen) > 1
    assert all(obs["action_masks"].all() for obs in seen[:-1])


def test_normalization_leaves_masks_alone():
    env = normalized(masked_venv(), ())
    obs = env.reset()
    assert obs["action_masks"].dtype == np.int8
    assert set(env.obs_rms) == {"observation"}
    MemoryPPO("MaskableMemoryPolicy", env, n_steps=8, policy_kwargs=POLICY, device="cpu").learn(16)


@pytest.mark.parametrize("act", ACTIONS)
def test_a_trace_shows_illegal_actions_at_0(act):
    model, env = agent(act=act), ActionMasks(masked_env(act=act))
    found = trace(model, env, episodes=3, seed=1, attribution=True)
    masks = found.observations["action_masks"][found.valid]
    shares = found.probabilities[found.valid]
    if act == "multi_binary":  # of a 1
        assert (shares[masks[:, 1::2] == 0] == 0).all()
        assert (shares[masks[:, ::2] == 0] == 1).all()
    else:
        assert (shares[masks == 0] == 0).all()
        assert shares.sum(-1) == pytest.approx(1 if act == "discrete" else 2)
    assert np.isfinite(found.attribution).all()
    shown = as_shown(found, env).observations
    np.testing.assert_array_equal(shown, found.observations["observation"])


def test_a_forced_action_is_attributed_to_nothing():
    venv = VecActionMasks(DummyVecEnv([DoorsEnv]))
    model = MemoryPPO("MaskableMemoryPolicy", venv, n_steps=4, policy_kwargs=POLICY, device="cpu")
    nn.init.normal_(model.policy.action_net.weight)
    found = trace(model, ActionMasks(DoorsEnv()), seed=0, attribution=True)
    assert found.length.tolist() == [DoorsEnv.doors + 1]
    assert (found.attribution[:-1] == 0).all()
    assert found.attribution[-1].max() > 0


def test_for_env_takes_it():
    model = MemoryPPO.for_env("tests.doors:Doors-v0", mask_actions=True, num_envs=2, observe=["reward"], core="gru")
    assert type(model.policy) is MaskableMemoryPolicy
    assert model.observation_space["observation"].shape == (5,)


class Stuck(DoorsEnv):
    """From the second step on nothing is legal."""

    def action_masks(self):
        return super().action_masks() if self.t == 0 else np.zeros(self.actions, bool)


def learn(env):
    MemoryPPO("MaskableMemoryPolicy", env, n_steps=8, policy_kwargs=POLICY, device="cpu").learn(8)


def test_no_legal_action_is_named():
    env = VecActionMasks(DummyVecEnv([DoorsEnv, Stuck]))
    message = r"action_masks of environment 1 is \[0, .*\], expected at least one legal choice of action 0 of Discrete"
    with pytest.raises(EnvironmentFault, match=rf"at step 1 of the rollout: ValueError: {message}"):
        learn(env)
    with pytest.raises(ValueError, match=r"environment 0 is \[1, 0, 0, 0, 0\], .* action 1 of MultiDiscrete"):
        checked([1, 0, 0, 0, 0], spaces.MultiDiscrete([2, 3]), 1)
    with pytest.raises(ValueError, match="expected at least one legal choice of action 0"):
        agent().predict(np.zeros(5, np.float32), action_masks=[0, 0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VecActionMasks(make_vec_env(RecallEnv, 2)), r"no action_masks\(\) in the environments, expected a"),
        (lambda: ActionMasks(RecallEnv()), r"no action_masks\(\) in <RecallEnv instance>, expected a"),
        (lambda: ActionMasks(masked_env(act="box")), r"the action space is Box.*expected Discrete, or MultiDiscrete"),
        (
            lambda: VecActionMasks(masked_venv()),
            "the observation has the key 'action_masks' already, expected an observation without masks",
        ),
        (lambda: learn(masked_env()), "the observation is Box.*, expected a Dict with the key 'action_masks'"),
        (lambda: agent().predict(np.zeros(5, np.float32)), r"no 'action_masks', expected that key, or predict\("),
        (
            lambda: agent().predict(np.zeros(5, np.float32), action_masks=[1, 1]),
            r"action_masks is of shape \(2,\), expected 3 bools for each of 1 environments with Discrete\(3\)",
        ),
        (
            lambda: agent().predict(np.zeros((2, 5), np.float32), action_masks=[[1, 1, 1]] * 3),
            "observation has 2 of 'observation', 3 of 'action_masks', expected as many of every part",
        ),
        (
            lambda: checked([[1, 1], [1]], spaces.Discrete(2), 2),
            r"action_masks is \[\[1, 1\], \[1\]\], expected 2 bools for Discrete\(2\)",
        ),
        (
            lambda: MemoryPPO("MemoryPolicy", RecallEnv()).predict(np.zeros(3, np.float32), action_masks=[1, 1]),
            "action_masks was given to a MemoryPolicy, expected a MaskableMemoryPolicy",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_it_learns_what_needs_masks_and_memory():
    """The ceilings are in the docstring of the environment: 1, 0.5 without memory, 16 ** -3 without masks."""
    scores = {}
    for name, core, wrap in (("both", "gru", True), ("masks", "none", True), ("memory", "gru", False)):
        venv = make_vec_env(DoorsEnv, 16, seed=0)
        venv = VecActionMasks(venv) if wrap else venv
        model = MemoryPPO(
            policy_for(venv.observation_space),
            venv,
            n_steps=8,
            n_epochs=2,
            learning_rate=3e-3,
            gae_lambda=1.0,
            seed=1,
            policy_kwargs={"core": core, "hidden_size": 16, "critic_core": "none"},
            device="cpu",
        )
        model.learn(24_000)
        scores[name] = evaluate_policy(model, venv, n_eval_episodes=400)[0]
    assert scores["both"] > 0.95
    assert 0.4 < scores["masks"] < 0.6
    assert scores["memory"] < 0.05
