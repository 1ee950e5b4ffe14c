"""MemoryPPO and MemoryA2C, against stock RecurrentPPO and plain Python."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from fwagents.cores import CORES
from fwagents.sb3 import MemoryA2C, MemoryPPO
from fwagents.sb3.buffers import MemoryRolloutBuffer
from fwagents.sb3.faults import EnvironmentFault
from fwagents.sb3.states import MemoryStates

from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv, RecallEnv, ScriptedEnv, until

ALGORITHMS = [MemoryPPO, MemoryA2C]
CRITICS = ["shared", "detached", "separate", "none"]
MEMORIES = [{"core": core} for core in CORES] + [
    {"core": "fast_weights", "core_kwargs": {"inner_steps": inner_steps}} for inner_steps in (0, "adaptive")
]


def make(algorithm=MemoryPPO, obs="vector", action="discrete", n_envs=3, env=None, **kwargs):
    make_env = env or (lambda: RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES[action]))
    venv = DummyVecEnv([make_env] * n_envs)
    venv.seed(0)
    policy_kwargs = {"hidden_size": 8, **kwargs.pop("policy_kwargs", {})}
    kwargs = {"n_steps": 12, "seed": 0, "device": "cpu", **kwargs}
    return algorithm(POLICIES[obs], venv, policy_kwargs=policy_kwargs, **kwargs)


def weights(model):
    return {name: p.detach().clone() for name, p in model.policy.named_parameters()}


class Endless(RandomEnv):
    """An environment that never ends, so each environment of a batch is one sequence."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


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


@pytest.mark.parametrize(
    ("core", "numbers"), [("fast_weights", 256 + 256**2), ("rotary_fast_weights", 9 * 256 + 256**2 // 4 + 1)]
)
def test_buffer_takes_the_memory_that_it_says(core, numbers):
    """256 units, 128 steps, 8 environments and chunks of 32 give 4 * 8 states of ``numbers`` float32 values."""
    box = OBSERVATION_SPACES["vector"]
    model = MemoryPPO(
        "MemoryPolicy",
        DummyVecEnv([lambda: RandomEnv(box, ACTION_SPACES["discrete"])] * 8),
        chunk_length=32,
        n_epochs=1,
        device="cpu",
        policy_kwargs={"core": core, "hidden_size": 256, "critic_core": "shared"},
    )
    model.learn(128 * 8)
    buffer = model.rollout_buffer
    leaves = [leaf for states in buffer.states for leaf in states.actor]
    assert sum(leaf.numel() * leaf.element_size() for leaf in leaves) == 4 * 8 * numbers * 4
    assert len({leaf.untyped_storage().data_ptr() for leaf in leaves}) == len(leaves)
    arrays = [v for v in vars(buffer).values() if isinstance(v, np.ndarray)]
    # Each step has an observation, an action (int64), and six scalars.
    assert sum(a.nbytes for a in arrays) == 128 * 8 * (5 * 4 + 8 + 6 * 4)


@pytest.mark.parametrize("pair", [(MemoryPPO, PPO), (MemoryA2C, A2C)])
def test_logs_the_peers_keys(pair, tmp_path):
    keys = []
    for algorithm in pair:
        kwargs = (
            {"policy_kwargs": {"net_arch": [8]}} if algorithm in (PPO, A2C) else {"policy_kwargs": {"hidden_size": 8}}
        )
        env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
        name = "MlpPolicy" if algorithm in (PPO, A2C) else "MemoryPolicy"
        if algorithm is PPO:
            kwargs["batch_size"] = 64
        model = algorithm(name, env, n_steps=32, device="cpu", **kwargs)
        model.set_logger(configure(str(tmp_path / algorithm.__name__), ["csv"]))
        model.learn(640, log_interval=1)
        header = (tmp_path / algorithm.__name__ / "progress.csv").read_text().splitlines()[0]
        keys.append(set(header.split(",")))
    assert keys[0] == keys[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_folders_of_tensorboard_logs_are_named_as_sb3_names_them(algorithm, tmp_path):
    """A folder's name is the algorithm's or the given one, and a number; continued training keeps its folder."""
    model = make(algorithm, n_steps=2, tensorboard_log=str(tmp_path))
    model.learn(1)
    model.learn(1, reset_num_timesteps=False)
    for _ in range(2):
        model.learn(1, tb_log_name="again")
    assert {path.name for path in tmp_path.iterdir()} == {f"{algorithm.__name__}_1", "again_1", "again_2"}


def test_schedules_and_target_kl():
    model = make(learning_rate=lambda left: 0.01 * left, clip_range=lambda left: 0.4 * left, n_epochs=2)
    model.learn(36 * 2)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    assert model.logger.name_to_value["train/clip_range"] == pytest.approx(0.0)
    assert model._n_updates == 4
    stopped = make(learning_rate=0.1, n_epochs=5, target_kl=1e-6, batch_size=12)
    stopped.learn(36)
    assert stopped._n_updates < 5


class Spoiled(RandomEnv):
    """An environment that returns NaN at the fourth step."""

    def __init__(self, what):
        super().__init__(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"])
        self.what, self.steps = what, 0

    def step(self, action):
        self.steps += 1
        obs, reward, *rest = super().step(action)
        if self.steps == 4:
            obs, reward = (np.full_like(obs, np.nan), reward) if self.what == "observation" else (obs, float("inf"))
        return obs, reward, *rest


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("observation", "observation of environment 0 is nan at step 4 of the rollout"),
        ("reward", "reward of environment 0 is inf at step 3 of the rollout"),
    ],
)
def test_what_is_not_finite_is_named(algorithm, what, message):
    with pytest.raises(EnvironmentFault, match=message):
        make(algorithm, env=lambda: Spoiled(what)).learn(36)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(algorithm):
    model = make(algorithm, learning_rate=1e-3)
    model.learn(36)
    before = weights(model)
    model.rollout_buffer.returns[0, 0] = np.inf
    with pytest.raises(FloatingPointError, match="value_loss is inf after 36 steps"):
        model.train()
    torch.testing.assert_close(weights(model), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"chunk_length": 5}, "chunk_length is 5, expected a divisor of n_steps, which is 12"),
        ({"chunk_length": 0}, "chunk_length is 0"),
        ({"batch_size": 10}, r"batch_size is 10, expected a multiple of chunk_length \(12\)"),
        ({"batch_size": 0}, "batch_size is 0, expected an integer of at least 1"),
        ({"batch_size": 12.0}, "batch_size is 12.0, expected an integer"),
        ({"n_epochs": 0}, "n_epochs is 0, expected an integer of at least 1"),
        ({"n_steps": 0}, "n_steps is 0, expected an integer of at least 1"),
        ({"n_steps": "8"}, "n_steps is '8', expected an integer of at least 1"),
        ({"use_sde": True, "action": "box"}, "use_sde is True"),
        ({"rollout_buffer_class": RolloutBuffer}, "rollout_buffer_class is RolloutBuffer"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_policies_without_memory_are_refused():
    from stable_baselines3.common.policies import ActorCriticPolicy

    with pytest.raises(ValueError, match="policy is ActorCriticPolicy, expected a MemoryPolicy"):
        MemoryPPO(ActorCriticPolicy, RecallEnv())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("MlpPolicy", "MemoryPolicy"),
        ("MlpLstmPolicy", "MemoryPolicy"),
        ("CnnPolicy", "MemoryCnnPolicy"),
        ("CnnLstmPolicy", "MemoryCnnPolicy"),
        ("MultiInputPolicy", "MemoryMultiInputPolicy"),
        ("MultiInputLstmPolicy", "MemoryMultiInputPolicy"),
        ("Policy", "one of MemoryPolicy, .*MemoryMultiInputPolicy"),
    ],
)
def test_the_names_of_other_policies_get_a_hint(algorithm, theirs, ours):
    with pytest.raises(ValueError, match=f"Policy {theirs} unknown to {algorithm.__name__}, expected {ours}$"):
        algorithm(theirs, RecallEnv())


def test_minibatches_need_not_divide_the_rollout(tmp_path):
    """The last minibatch is smaller, but of whole chunks, and every chunk is in one minibatch."""
    with pytest.warns(UserWarning, match="there will be a truncated mini-batch of size 4"):
        model = make(chunk_length=4, batch_size=16)
    model.learn(36)
    sizes = [chunks.start.numel() for chunks in model.rollout_buffer.get(16)]
    assert sizes == [16, 16, 4]
    seen = torch.cat([chunks.old_log_prob.flatten() for chunks in model.rollout_buffer.get(16)])
    np.testing.assert_array_equal(np.sort(seen.numpy()), np.sort(model.rollout_buffer.log_probs.flatten()))
    model.save(tmp_path / "m.zip")
    for number in (1, 2, 5):
        env = DummyVecEnv([lambda: RandomEnv(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"])] * number)
        loaded = MemoryPPO.load(tmp_path / "m.zip", env=env)
        loaded.predict(env.reset())
        loaded.learn(12 * number)
        assert loaded.num_timesteps == 12 * number


def test_one_step_of_one_environment_cannot_be_normalised():
    with pytest.raises(AssertionError, match="must be greater than 1"):
        make(n_envs=1, n_steps=1)
    make(n_envs=1, n_steps=1, normalize_advantage=False).learn(2)


@pytest.mark.parametrize(
    ("core", "core_kwargs"),
    [
        ("fast_weights", {"inner_steps": np.int64(2), "decay": np.float32(0.5)}),
        ("rotary_fast_weights", {"num_heads": np.int64(2), "max_period": np.float32(50)}),
    ],
)
def test_numpy_integers_are_integers(core, core_kwargs):
    numbers = {name: np.int64(value) for name, value in [("n_steps", 12), ("chunk_length", 4), ("n_epochs", 2)]}
    policy = {"core": core, "hidden_size": np.int32(8), "core_kwargs": core_kwargs}
    model = make(batch_size=np.uint8(12), policy_kwargs=policy, **numbers)
    model.learn(36)
    sizes = (model.n_steps, model.n_epochs, model.batch_size, model.rollout_buffer.chunk_length)
    assert sizes == (12, 2, 12, 4)
    assert {type(size) for size in sizes} == {int}
    parameters = model.policy._get_constructor_parameters()
    json.dumps([parameters["hidden_size"], parameters["core_kwargs"]])


class Doubled(MemoryRolloutBuffer):
    """A user-defined buffer."""


def test_a_buffer_of_ones_own():
    model = make(rollout_buffer_class=Doubled, chunk_length=6)
    model.learn(36)
    assert isinstance(model.rollout_buffer, Doubled)
    assert model.rollout_buffer.chunk_length == 6


def test_goal_environments():
    """MemoryPPO learns from the Dict observations of one of SB3's goal environments."""
    from stable_baselines3.common.envs import BitFlippingEnv

    model = MemoryPPO("MemoryMultiInputPolicy", BitFlippingEnv(n_bits=4), n_steps=16, policy_kwargs={"hidden_size": 8})
    model.learn(64)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_solves_what_cannot_be_solved_without_memory(algorithm, core):
    """The best memoryless mean is 0, which a sample can exceed by chance; a perfect player has 1."""
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
    test_env = DummyVecEnv([RecallEnv] * 16)
    model.learn(16_000 if algorithm is MemoryPPO else 24_000, until(0.95, test_env))
    mean, _ = evaluate_policy(model, test_env, n_eval_episodes=100, warn=False)
    assert mean < 0.5 if core == "none" else mean > 0.9


def test_torch_s_checks_of_distributions_stay_as_they_were(monkeypatch):
    from torch.distributions import Bernoulli, Distribution

    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch.compile, in another test, turns them off
    make().learn(36)
    with pytest.raises(ValueError, match="probs"):
        Bernoulli(torch.tensor(2.0))
