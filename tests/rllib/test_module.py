"""The policy under RLlib equals the policy under SB3, over chunks, padding and truncations, for every core."""

import copy
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("ray.rllib")

import ray
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from fwagents.cores import CORES
from fwagents.rllib import MemoryRLModule, from_sb3, to_sb3, with_memory
from fwagents.rllib.module import CHUNK_LENGTH
from fwagents.rllib.states import OpeningStates
from fwagents.sb3 import MemoryPPO, make_vec_env

ENV = "fwagents.envs:PartialCatch-v0"
SIZE = {"size": 5}


def trained(core, critic_core="separate", **kwargs):
    """Return an agent that has learned a little, so that its weights are not the initial ones."""
    env = make_vec_env("PartialCatch-v0", 4, seed=0, **SIZE)
    policy_kwargs = {"core": core, "hidden_size": 8, "critic_core": critic_core}
    model = MemoryPPO("MemoryPolicy", env, n_steps=8, learning_rate=0.01, policy_kwargs=policy_kwargs, seed=0, **kwargs)
    return model.learn(64)


def runner_for(module, chunk_length, num_envs=3):
    """Return an env runner in this process that plays with a module's weights, and its configuration."""
    config = with_memory(PPOConfig(), chunk_length=chunk_length, **module.model_config["policy_kwargs"])
    config.environment(ENV, env_config=SIZE).env_runners(
        num_env_runners=0, num_envs_per_env_runner=num_envs, gym_env_vectorize_mode="vector_entry_point"
    )
    config.debugging(seed=1)
    runner = SingleAgentEnvRunner(config=config)
    runner.module.set_state(module.get_state(inference_only=True))
    return runner, config


def learner_batch(config, module, episodes):
    """Return the batch that a learner makes from a sample."""
    pipeline = config.build_learner_connector(module.observation_space, module.action_space)
    pipeline.prepend(AddOneTsToEpisodesAndTruncate())
    return pipeline(rl_module=module, batch={}, episodes=episodes, shared_data={})


def on_whole_episodes(model, episodes):
    """Return logits and values of every observation, by the cores' ``forward`` over one stream with starts."""
    policy = model.policy
    obs = torch.from_numpy(np.concatenate(episodes)).float()
    start = torch.zeros(len(obs), 1, dtype=torch.bool)
    start[np.cumsum([0, *map(len, episodes[:-1])])] = True
    with torch.no_grad():
        features, critic_features = policy.encode(obs)
        latent, _ = policy.actor_core(features[:, None], start=start)
        latent = critic = latent[:, 0]
        if policy.critic_core is not None:
            critic = policy.critic_core(critic_features[:, None], start=start)[0][:, 0]
        if policy.critic is not None:
            critic = policy.critic(critic_features)
        logits, values = policy.action_net(latent), policy.value_net(critic).squeeze(-1)
    ends = np.cumsum([len(episode) for episode in episodes])[:-1].tolist()
    return torch.tensor_split(logits, ends), torch.tensor_split(values, ends)


# Stretches have up to four steps, and RLlib adds one: chunks are shorter, equally long, and longer.
@pytest.mark.parametrize(("core", "chunk_length"), [*((core, 2) for core in CORES), ("gru", 3), ("gru", 4), ("gru", 9)])
def test_chunks_agree_with_whole_episodes(core, chunk_length):
    model = trained(core)
    module = from_sb3(model, chunk_length)
    runner, config = runner_for(module, chunk_length)
    # Twice seven steps cut episodes of four steps in the middle.
    samples = [runner.sample(num_timesteps=7 * 3), runner.sample(num_timesteps=7 * 3)]
    whole, played = {}, {}
    for sample in samples:
        for stretch in sample:
            before = whole.get(stretch.id_)
            seen = stretch.get_observations()
            whole[stretch.id_] = seen if before is None else np.concatenate([before[:-1], seen])
            played.setdefault(stretch.id_, []).append(stretch)
    assert any(stretch.t_started > 0 for stretches in played.values() for stretch in stretches)
    logits, values = on_whole_episodes(model, list(whole.values()))
    expected = {id_: pair for id_, *pair in zip(whole, logits, values, strict=True)}
    for sample in samples:
        # The played steps, and the policy's outputs at that time.
        ids, begins, lengths = zip(*((s.id_, s.t_started, len(s)) for s in sample), strict=True)
        for id_, begin, stretch in zip(ids, begins, sample, strict=True):
            said = stretch.get_extra_model_outputs(Columns.ACTION_DIST_INPUTS)
            truth = expected[id_][0][begin : begin + len(stretch)]
            torch.testing.assert_close(torch.from_numpy(said), truth, rtol=1e-4, atol=1e-5)
            assert Columns.STATE_OUT not in stretch.extra_model_outputs, "states stay where they are"
        batch = learner_batch(config, module, sample)
        out = module.forward_train(batch)
        learned_values = module.compute_values(batch, out[Columns.EMBEDDINGS])
        torch.testing.assert_close(learned_values, module.compute_values(batch))
        row = 0
        for id_, begin, length in zip(ids, begins, lengths, strict=True):
            rows = -(-(length + 1) // chunk_length)
            for found, truth in zip((out[Columns.ACTION_DIST_INPUTS], learned_values), expected[id_], strict=True):
                # There is one step more than was played: the observation to bootstrap from.
                stretch = found[row : row + rows].flatten(0, 1)[: length + 1]
                torch.testing.assert_close(stretch, truth[begin : begin + length + 1], rtol=1e-4, atol=1e-5)
            row += rows
        assert row == len(learned_values)


def test_importance_ratios_are_one_where_nothing_was_learned():
    """APPO and IMPALA weigh samples by these ratios; chunks may begin anywhere."""
    module = from_sb3(trained("fast_weights"), 4)
    config = with_memory(IMPALAConfig(), chunk_length=4, **module.model_config["policy_kwargs"])
    config.environment(ENV, env_config=SIZE).env_runners(num_env_runners=0, num_envs_per_env_runner=3)
    runner = SingleAgentEnvRunner(config=config)
    runner.module.set_state(module.get_state(inference_only=True))
    runner.sample(num_timesteps=7 * 3)
    pipeline = config.build_learner_connector(module.observation_space, module.action_space)
    sample = runner.sample(num_timesteps=7 * 3)
    assert any(stretch.t_started > 0 for stretch in sample)
    steps = sum(map(len, sample))  # before the learner adds one to each
    batch = pipeline(rl_module=module, batch={}, episodes=sample, shared_data={})
    inputs = module.forward_train(batch)[Columns.ACTION_DIST_INPUTS]
    said = module.get_train_action_dist_cls().from_logits(inputs).logp(batch[Columns.ACTIONS])
    played = batch[Columns.LOSS_MASK]
    assert played.sum() == steps
    torch.testing.assert_close(said[played], batch[Columns.ACTION_LOGP][played], rtol=1e-4, atol=1e-5)


def test_impala_trains():
    config = with_memory(IMPALAConfig(), core="fast_weights", hidden_size=8, critic_core="separate", chunk_length=4)
    config.environment(ENV, env_config=SIZE).learners(num_learners=0)
    config.env_runners(num_env_runners=1, num_envs_per_env_runner=4, rollout_fragment_length=7)
    config.training(train_batch_size_per_learner=28, lr=0.01).reporting(min_time_s_per_iteration=0)
    ray.init("local", num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        algorithm = config.build_algo()
        begun = copy.deepcopy(algorithm.learner_group.get_weights()["default_policy"])
        moved, end = set(), time.monotonic() + 300
        while moved != set(begun):
            assert time.monotonic() < end
            algorithm.train()  # may return before an update
            weights = algorithm.learner_group.get_weights()["default_policy"]
            moved = {name for name in begun if (weights[name] != begun[name]).any()}
        assert all(np.isfinite(part).all() for part in weights.values())
        algorithm.stop()
    finally:
        ray.shutdown()


@pytest.mark.parametrize("critic_core", ["shared", "detached", "separate", "none"])
def test_weights_go_to_rllib_and_back(critic_core):
    model = trained("fast_weights", critic_core)
    module = from_sb3(model)
    assert module.model_config["max_seq_len"] == 8
    other = trained("fast_weights", critic_core, ent_coef=0.1)
    to_sb3(module, other)
    for name, weights in model.policy.state_dict().items():
        torch.testing.assert_close(other.policy.state_dict()[name], weights, rtol=0, atol=0)
    # Greedy play is the same, step by step, from the same observations.
    obs, state, start = model.env.reset(), None, np.ones(4, bool)
    carried = {name: leaf.expand(4, *leaf.shape) for name, leaf in module.get_initial_state().items()}
    for _ in range(3):
        action, state = model.predict(obs, state, start, deterministic=True)
        out = module.forward_inference({Columns.OBS: torch.from_numpy(obs)[:, None], Columns.STATE_IN: carried})
        carried = out[Columns.STATE_OUT]
        assert (out[Columns.ACTION_DIST_INPUTS][:, 0].argmax(-1).numpy() == action).all()
        obs, start = model.env.step(action)[0], np.zeros(4, bool)


def test_a_detached_critic_moves_its_head_alone():
    module = from_sb3(trained("gru", "detached"))
    batch = {
        Columns.OBS: torch.rand(2, 3, *module.observation_space.shape),
        Columns.STATE_IN: {name: leaf.expand(2, *leaf.shape) for name, leaf in module.get_initial_state().items()},
    }
    module.compute_values(batch).sum().backward()
    moved = {name for name, p in module.policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"value_net.weight", "value_net.bias"}


@pytest.mark.parametrize(
    "action_space",
    [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.Box(-2, 2, (2,), np.float32)],
    ids=lambda space: type(space).__name__,
)
def test_likelihoods_are_those_of_sb3(action_space):
    space = spaces.Box(-1, 1, (4,), np.float32)
    module = MemoryRLModule(
        observation_space=space,
        action_space=action_space,
        model_config={"policy_kwargs": {"core": "lstm", "hidden_size": 8}},
    )
    obs = torch.randn(5, 1, 4)
    state = {name: leaf.expand(5, *leaf.shape) for name, leaf in module.get_initial_state().items()}
    out = module.forward_exploration({Columns.OBS: obs, Columns.STATE_IN: state})
    distribution = module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS][:, 0])
    actions = distribution.sample()
    policy = module.policy
    with torch.no_grad():
        latent, _ = policy.actor_core(policy.encode(obs[:, 0])[0][None])
        theirs = policy.distribution(latent[0], obs[:, 0])
    torch.testing.assert_close(distribution.logp(actions), theirs.log_prob(actions), rtol=1e-4, atol=1e-5)


def test_images_may_have_their_channels_last():
    image = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    for space in (image, spaces.Dict({"screen": image, "speed": spaces.Box(-1, 1, (2,), np.float32)})):
        module = MemoryRLModule(
            observation_space=space,
            action_space=spaces.Discrete(2),
            model_config={"policy_kwargs": {"core": "gru", "hidden_size": 4}},
        )
        obs = {"screen": torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8), "speed": torch.randn(2, 3, 2)}
        state = {name: leaf.expand(2, *leaf.shape) for name, leaf in module.get_initial_state().items()}
        batch = {Columns.OBS: obs if isinstance(space, spaces.Dict) else obs["screen"], Columns.STATE_IN: state}
        policy = module.policy
        # SB3's own wrapper changes them in this way.
        screen = obs["screen"][:, 0].permute(0, 3, 1, 2)
        alone = {"screen": screen, "speed": obs["speed"][:, 0]}
        with torch.no_grad():
            features, _ = policy.encode(alone if isinstance(space, spaces.Dict) else screen)
            latent, _ = policy.actor_core(features[None])
            expected = policy.action_net(latent[0])
        torch.testing.assert_close(module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS][:, 0], expected)


def test_the_slow_copy_follows_only_when_told():
    module = from_sb3(trained("fast_weights"))
    module.make_target_networks()
    batch = {
        Columns.OBS: torch.rand(2, 3, *module.observation_space.shape),
        Columns.STATE_IN: {name: leaf.expand(2, *leaf.shape) for name, leaf in module.get_initial_state().items()},
    }
    before = module.forward_train(batch)[Columns.ACTION_DIST_INPUTS].detach()
    with torch.no_grad():
        module.policy.action_net.bias += torch.arange(3.0)
    after = module.forward_target(batch)["target_network_action_dist_inputs"]
    torch.testing.assert_close(after, before)
    assert not any(name.startswith("target") for name in module.get_state(inference_only=True))


@pytest.mark.parametrize(
    ("options", "space", "error", "message"),
    [
        ({"core": "lstmm"}, spaces.Discrete(2), ValueError, "lstmm"),
        ({"coer": "lstm"}, spaces.Discrete(2), TypeError, "coer"),
        ({"use_sde": True}, spaces.Box(-1, 1, (2,)), ValueError, "use_sde is True, expected False"),
        ({}, spaces.MultiBinary(3), ValueError, "expected Discrete, MultiDiscrete or Box"),
    ],
)
def test_a_mistake_is_named(options, space, error, message):
    with pytest.raises(error, match=message):
        MemoryRLModule(
            observation_space=spaces.Box(-1, 1, (4,), np.float32),
            action_space=space,
            model_config={"policy_kwargs": options},
        )


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="chunk_length is 0, expected an integer of at least 1"):
        with_memory(APPOConfig(), chunk_length=0)
    from sb3_contrib import RecurrentPPO

    with pytest.raises(TypeError, match="RecurrentActorCriticPolicy, expected a MemoryPolicy"):
        from_sb3(RecurrentPPO("MlpLstmPolicy", gym.make("CartPole-v1")))
    module = MemoryRLModule(
        observation_space=spaces.Box(-1, 1, (4,), np.float32),
        action_space=spaces.Discrete(2),
        model_config={CHUNK_LENGTH: 4, "policy_kwargs": {"hidden_size": 4}},
    )
    with pytest.raises(ValueError, match="expected callbacks to be set before with_memory"):
        OpeningStates()(rl_module=module, batch={}, episodes=[SingleAgentEpisode()])
