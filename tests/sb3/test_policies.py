"""MemoryPolicy in stock RecurrentPPO, against sb3-contrib's own policy where both are defined."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from fwagents.cores import CORES, FastWeights, make_core
from fwagents.export import load_policy, save_policy
from fwagents.sb3 import FastWeightPolicy, MemoryA2C, MemoryPolicy, MemoryPPO
from fwagents.sb3.packing import PackedCore
from fwagents.settings import AGENT_CORE

from .agents import CRITICS
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv, RecallEnv, recall_after

SMALL = {"hidden_size": 8}


def make(core="fast_weights", critic="separate", obs="vector", action="discrete", n_envs=2, **kwargs):
    env = DummyVecEnv([lambda: RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES[action])] * n_envs)
    policy_kwargs = {"core": core, "critic_core": critic, **SMALL, **kwargs.pop("policy_kwargs", {})}
    return RecurrentPPO(
        POLICIES[obs], env, n_steps=12, batch_size=8, n_epochs=2, seed=0, policy_kwargs=policy_kwargs, **kwargs
    )


def observations(model, n=2):
    space = model.observation_space
    space.seed(1)
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([s[key] for s in samples]) for key in space}
    return np.stack(samples)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("critic", CRITICS)
def test_learns_with_every_core_and_critic(core, critic):
    """Every trainable weight changes: both cores, both heads, the encoder."""
    model = make(core, critic)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters() if p.requires_grad}
    model.learn(24 * 2)
    still = [n for n, p in model.policy.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert still == []


@pytest.mark.parametrize("core", ["fast_weights", "irnn"])
def test_an_agents_recurrence_begins_at_the_identity(core):
    policy = make(core).policy
    (weight,) = (w for name, w in policy.actor_core.named_parameters() if "weight_hh" in name)
    assert torch.equal(weight, torch.eye(SMALL["hidden_size"]))


@pytest.mark.parametrize("obs", OBSERVATION_SPACES)
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_spaces(obs, action):
    model = make(obs=obs, action=action)
    model.learn(24)
    actions, state = model.predict(observations(model))
    assert actions.shape == (2, *model.action_space.shape)
    assert all(model.action_space.contains(a) for a in actions)
    model.predict(observations(model), state, np.array([True, False]))


def test_policy_by_name_and_by_class():
    for policy in ("MemoryPolicy", MemoryPolicy):
        model = RecurrentPPO(policy, RecallEnv(), n_steps=8, policy_kwargs=SMALL)
        assert type(model.policy.actor_core) is CORES[AGENT_CORE]
    cnn = make(obs="image").policy_class, RecurrentPPO.policy_aliases["MemoryCnnPolicy"]
    assert cnn[0] is cnn[1]
    multi = make(obs="dict").policy_class, RecurrentPPO.policy_aliases["MemoryMultiInputPolicy"]
    assert multi[0] is multi[1]


@pytest.mark.parametrize("algorithm", [RecurrentPPO, MemoryPPO])
@pytest.mark.parametrize("policy", ["FastWeightPolicy", FastWeightPolicy])
def test_fast_weight_policy_is_on_the_papers_cell(algorithm, policy, tmp_path):
    """It works by name and by class, with its options, and after each way of saving."""
    options = {**SMALL, "core_kwargs": {"inner_steps": 2}}
    model = algorithm(policy, RecallEnv(), n_steps=8, seed=0, policy_kwargs=options).learn(8)
    model.save(tmp_path / "model.zip")
    model.policy.save(tmp_path / "policy.pt")
    save_policy(model.policy, tmp_path / "agent")
    copies = [
        algorithm.load(tmp_path / "model.zip").policy,
        FastWeightPolicy.load(tmp_path / "policy.pt"),
        load_policy(tmp_path / "agent").policy,
    ]
    obs = observations(model)
    expected = model.predict(obs, deterministic=True)
    for found in (model.policy, *copies):
        assert type(found) is FastWeightPolicy
        assert type(found.actor_core) is FastWeights
        assert type(found.critic_core) is FastWeights
        assert found.actor_core.options.inner_steps == 2
        for here, there in zip(found.predict(obs, deterministic=True), expected, strict=True):
            np.testing.assert_array_equal(here, there)


STOCK = {
    "separate": {"shared_lstm": False, "enable_critic_lstm": True},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "detached": {"shared_lstm": True, "enable_critic_lstm": False},
    "none": {"shared_lstm": False, "enable_critic_lstm": False},
}


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_equals_the_stock_lstm_policy(critic, action):
    """With copied weights, compare actions, values, log-probabilities, entropy, states, and the gradients of a loss."""
    args = (OBSERVATION_SPACES["vector"], ACTION_SPACES[action], lambda _: 1e-3)
    stock = RecurrentActorCriticPolicy(*args, lstm_hidden_size=8, **STOCK[critic])
    ours = MemoryPolicy(
        *args,
        core="lstm",
        hidden_size=8,
        critic_core=critic,
        net_arch={"pi": [64, 64], "vf": [64, 64]},
        features_extractor_class=FlattenExtractor,
    )
    names = {
        n: n.replace("lstm_actor.", "lstm_actor.core.rnn.").replace("lstm_critic.", "lstm_critic.core.rnn.")
        for n in stock.state_dict()
    }
    ours.load_state_dict({names[n]: value for n, value in stock.state_dict().items()})

    n_seq, T = 3, 5
    obs = torch.randn(n_seq * T, 5)
    starts = torch.zeros(n_seq, T)
    starts[0, 0] = starts[1, 2] = starts[2, 4] = 1
    starts = starts.flatten()
    states = RNNStates(*[(torch.randn(1, n_seq, 8), torch.randn(1, n_seq, 8)) for _ in range(2)])
    if critic != "separate":
        states = RNNStates(states.pi, states.pi)

    with torch.no_grad():
        one = [p(obs[:n_seq], states, starts[:n_seq], deterministic=True) for p in (stock, ours)]
        torch.testing.assert_close(*one)
        torch.testing.assert_close(*[p.predict_values(obs, states.vf, starts) for p in (stock, ours)])
        actions = one[0][0].repeat(T, *[1] * (one[0][0].dim() - 1))
    evaluated = [p.evaluate_actions(obs, actions, states, starts) for p in (stock, ours)]
    torch.testing.assert_close(*evaluated)
    if critic != "shared":  # in "shared" the value loss reaches the core, which it does not in sb3-contrib
        for values, log_prob, entropy in evaluated:
            (values.square().mean() + log_prob.mean() + entropy.mean()).backward()
        theirs = {names[n]: p.grad for n, p in stock.named_parameters() if p.grad is not None}
        torch.testing.assert_close({n: p.grad for n, p in ours.named_parameters() if p.grad is not None}, theirs)

    numpy_states = tuple(s.numpy() for s in states.pi)
    for state, start in [(None, None), (numpy_states, None), (numpy_states, np.array([True, False, True]))]:
        results = [p.predict(obs[:3].numpy(), state, start, deterministic=True) for p in (stock, ours)]
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
        np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_value_loss_reaches_a_shared_core_and_no_detached_one():
    for critic, reaches in [("shared", True), ("detached", False)]:
        policy = make(critic=critic).policy
        states = RNNStates(*[(torch.zeros(1, 2, policy.lstm_actor.hidden_size),) * 2] * 2)
        values, _, _ = policy.evaluate_actions(torch.randn(2, 5), torch.zeros(2), states, torch.ones(2))
        values.sum().backward()
        gradient = policy.actor_core.weight_ih.grad
        assert (gradient is not None and bool(gradient.abs().max() > 0)) == reaches


# A GRU of five units has a state of odd size, which cannot be halved.
@pytest.mark.parametrize(("core", "size"), [*((core, (4, 4)) for core in CORES), ("gru", (3, 5)), ("lstm", (3, 5))])
def test_packing_loses_nothing_and_stores_nothing_twice(core, size):
    packed = PackedCore(make_core(core, *size))
    state = packed.core.initial_state(3)
    state = type(state)(*(torch.randn_like(leaf) for leaf in state))
    pair = packed.pack(state)
    assert [p.shape for p in pair] == [(1, 3, packed.hidden_size)] * 2
    assert 0 <= 2 * packed.hidden_size - packed.core.state_size <= 1
    torch.testing.assert_close(packed.unpack(pair), state, rtol=0, atol=0)


def test_predict_carries_the_state():
    """Playing a stream step by step equals one pass of the core over it; a finished episode has no effect."""
    policy = make().policy
    stream = np.random.default_rng(0).normal(size=(7, 2, 5)).astype(np.float32)
    start = np.zeros((7, 2), bool)
    start[3, 1] = True
    state = None
    for t in range(7):
        _, state = policy.predict(stream[t], state, start[t], deterministic=True)
    with torch.no_grad():
        features = policy.extract_features(torch.as_tensor(stream).flatten(0, 1)).unflatten(0, (7, 2))
        _, last = policy.actor_core(features, None, torch.as_tensor(start))
    torch.testing.assert_close([torch.as_tensor(s) for s in state], list(policy.lstm_actor.pack(last)))


@pytest.mark.parametrize("obs", ["vector", "dict"])
@pytest.mark.parametrize(
    ("rows", "start", "message"),
    [
        (1, None, r"state is .*\(1, 1, 36\), expected two arrays of shape \(1, 3, 36\), as of 3 observations"),
        (2, None, r"state is .*\(1, 2, 36\), expected two arrays of shape \(1, 3, 36\)"),
        ("half", None, r"state is ndarray of shape \(1, 3, 36\), expected two arrays"),
        ("text", None, r"state is str of shape \(\), expected two arrays"),
        (3, [True], r"episode_start is bool of shape \(1,\), expected bool of shape \(3,\)"),
        (3, True, r"episode_start is bool of shape \(\), expected bool of shape \(3,\)"),
        (3, np.zeros((3, 1)), r"episode_start is float64 of shape \(3, 1\), expected bool of shape \(3,\)"),
        (3, ["a", "b", "c"], r"episode_start is <U1 of shape \(3,\), expected bool"),
        (None, [True, False], r"episode_start is bool of shape \(2,\), expected bool of shape \(3,\)"),
    ],
)
def test_predict_names_what_does_not_fit(obs, rows, start, message):
    model = make(obs=obs)
    states = {n: model.predict(observations(model, n))[1] for n in (1, 2, 3)}
    state = {"half": states[3][:1], "text": "state"}.get(rows, states.get(rows))
    with pytest.raises(ValueError, match=message):
        model.predict(observations(model, 3), state, start)


def test_predict_takes_a_scalar_start_of_one_environment():
    policy, obs = make().policy, np.ones((1, 5), np.float32)
    _, state = policy.predict(obs, deterministic=True)
    for one in (obs, obs[0]):
        for start in (False, np.bool_(False), [False], np.zeros(1), None):
            _, after = policy.predict(one, state, start, deterministic=True)
            np.testing.assert_array_equal(after, policy.predict(obs, state, np.array([False]), deterministic=True)[1])


def test_first_minibatch_has_ratio_one():
    """The update recomputes the rollout's values, across episode ends inside the rollout."""
    model = make(n_envs=3, learning_rate=0.0)
    model.learn(36)
    buffer = model.rollout_buffer
    for data in buffer.get(9):
        mask = data.mask > 0.5
        with torch.no_grad():
            values, log_prob, _ = model.policy.evaluate_actions(
                data.observations, data.actions.long().flatten(), data.lstm_states, data.episode_starts
            )
        torch.testing.assert_close(log_prob[mask], data.old_log_prob[mask], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(values.flatten()[mask], data.old_values[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("critic", CRITICS)
def test_save_and_load_give_the_same_actions(core, critic, tmp_path):
    model = make(core, critic, action="box", policy_kwargs={"net_arch": [7]})
    model.learn(24)
    obs = observations(model)
    model.save(tmp_path / "model.zip")
    model.policy.save(tmp_path / "policy.pt")
    copies = [RecurrentPPO.load(tmp_path / "model.zip"), MemoryPolicy.load(tmp_path / "policy.pt")]
    for copy in copies:
        state = copy_state = None
        for _ in range(3):
            action, state = model.predict(obs, state, deterministic=True)
            copy_action, copy_state = copy.predict(obs, copy_state, deterministic=True)
            np.testing.assert_array_equal(action, copy_action)
            np.testing.assert_array_equal(state, copy_state)
    copies[0].set_env(model.get_env())
    copies[0].learn(24)


@pytest.mark.parametrize("inner_steps", [0, "adaptive"])
def test_learns_with_any_inner_steps(inner_steps):
    model = make(policy_kwargs={"core_kwargs": {"inner_steps": inner_steps}})
    model.learn(24)
    core = model.policy.actor_core
    assert core.inner_steps == inner_steps
    assert model.policy.lstm_actor.hidden_size == (4 if inner_steps == 0 else 36), "half of h, or of h and A"


def test_evaluate_policy_and_the_options_of_the_core():
    model = make(policy_kwargs={"core_kwargs": {"inner_steps": 2, "decay": 0.9}})
    assert model.policy.actor_core.options.inner_steps == 2
    assert model.policy.actor_core.options.normalize_storage, "the agent's defaults stay under what is given"
    mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=3, warn=False)
    assert np.isfinite(mean)


@pytest.mark.parametrize(
    ("error", "message", "policy_kwargs"),
    [
        (ValueError, "core is 'lstmm'", {"core": "lstmm"}),
        (ValueError, "critic_core is 'both', expected one of shared", {"critic_core": "both"}),
        (ValueError, "hidden_size is -1", {"hidden_size": -1}),
        (TypeError, f"core {AGENT_CORE!r} has no option 'eta'", {"core_kwargs": {"eta": 1.0}}),
        (
            ValueError,
            "critic_core is 'shared', which needs share_features_extractor=True",
            {"critic_core": "shared", "share_features_extractor": False},
        ),
        (
            TypeError,
            "DenseExtractor has no option 'width', .* features_dim",
            {"features_extractor_kwargs": {"width": 9}},
        ),
        (TypeError, "core_kwargs has 'hidden_size', expected it in policy_kwargs", {"core_kwargs": {"hidden_size": 6}}),
        (TypeError, "policy_kwargs has 'lstm_hidden_size', .* expected hidden_size", {"lstm_hidden_size": 64}),
        (TypeError, "policy_kwargs has 'enable_critic_lstm', .* critic_core=", {"enable_critic_lstm": True}),
    ],
)
def test_bad_options_are_named(error, message, policy_kwargs):
    with pytest.raises(error, match=message):
        RecurrentPPO("MemoryPolicy", RecallEnv(), policy_kwargs=policy_kwargs)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, MemoryPPO, MemoryA2C])
@pytest.mark.parametrize(
    ("policy", "obs", "message"),
    [
        ("MemoryPolicy", "dict", "the observation is a Dict of a, b, .* expected MemoryMultiInputPolicy"),
        ("MemoryCnnPolicy", "vector", r"the observation is Box\(-1.0, 1.0, \(5,\), float32\), expected an image"),
        ("MemoryMultiInputPolicy", "vector", "expected a Dict: MemoryPolicy takes vectors, MemoryCnnPolicy images"),
        ("MemoryMultiInputPolicy", "small_image", "expected a Dict: MemoryPolicy takes vectors"),
    ],
)
def test_a_policy_that_does_not_fit_the_observation_names_the_one_that_does(algorithm, policy, obs, message):
    with pytest.raises(ValueError, match=message):
        algorithm(policy, RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES["discrete"]))


@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C])
@pytest.mark.parametrize("options", [{"core": "gru"}, {"hidden_size": 32}, {"lstm_hidden_size": 64}])
def test_an_option_of_the_policy_beside_it_is_told_where_it_belongs(algorithm, options):
    (name,) = options
    with pytest.raises(TypeError, match=f"{name} is an option of the policy, expected policy_kwargs={{'{name}': ...}}"):
        algorithm("MemoryPolicy", RecallEnv(), **options)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, MemoryPPO])
@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 5], start=[1, 2])])
def test_a_space_that_does_not_start_at_zero_is_refused_before_anything_is_made(algorithm, space):
    box = spaces.Box(-1, 1, (3,), np.float32)
    for observation, action, what in ((box, space, "the action space"), (space, spaces.Discrete(2), "the observation")):
        with pytest.raises(ValueError, match=f"{what} is .*, expected a space that starts at 0: shift it with"):
            algorithm("MemoryPolicy", RandomEnv(observation, action))
    both = spaces.Dict({"a": box, "b": space})
    with pytest.raises(ValueError, match=r"observation 'b' is .*, expected a space that starts at 0"):
        algorithm("MemoryMultiInputPolicy", RandomEnv(both, spaces.Discrete(2)))


@pytest.mark.parametrize("policy", ["MemoryCnnPolicy", "MemoryMultiInputPolicy"])
def test_images_that_are_normalized_already_are_convolved(policy):
    """With normalize_images=False the parameters are as for bytes, as in SB3's and sb3-contrib's extractors."""
    floats, bytes_ = spaces.Box(0, 1, (3, 40, 40), np.float32), spaces.Box(0, 255, (3, 40, 40), np.uint8)
    shapes = []
    for space, options in ((floats, {"normalize_images": False}), (bytes_, {})):
        space = spaces.Dict({"eye": space}) if policy == "MemoryMultiInputPolicy" else space
        env = RandomEnv(space, ACTION_SPACES["discrete"])
        model = MemoryPPO(policy, env, n_steps=8, policy_kwargs={"hidden_size": 8, **options}).learn(8)
        shapes.append([p.shape for p in model.policy.parameters()])
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("core", CORES)
def test_solves_what_cannot_be_solved_without_memory(core):
    policy_kwargs = {"core": core, "hidden_size": 16, "critic_core": "none"}
    options = {"n_steps": 8, "batch_size": 128, "n_epochs": 2, "learning_rate": 3e-3, "gae_lambda": 1.0, "seed": 1}
    model = RecurrentPPO("MemoryPolicy", DummyVecEnv([RecallEnv] * 16), policy_kwargs=policy_kwargs, **options)
    mean = recall_after(model, 16_000)
    assert mean < 0.5 if core == "none" else mean > 0.9
