"""Rollouts: the state after a stop, the stored arrays, the named faults, and the variables that callbacks find."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from fwagents.cores import CORES
from fwagents.sb3 import MemoryA2C, MemoryPPO
from fwagents.sb3.faults import EnvironmentFault

from .agents import ALGORITHMS, CRITICS
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv

SMALL = {"hidden_size": 4}


class Remembering(RandomEnv):
    """A random environment that stores the observations of the current episode, the newest last."""

    def __init__(self):
        super().__init__(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"])

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.shown = [obs]
        return obs, info

    def step(self, action):
        obs, *rest = super().step(action)
        self.shown.append(obs)
        return obs, *rest


class At(BaseCallback):
    """Stop learning, or raise an error, at the n-th step."""

    def __init__(self, step, error=None):
        super().__init__()
        self.step, self.error = step, error

    def _on_step(self):
        if self.n_calls == self.step and self.error is not None:
            raise self.error
        return self.n_calls < self.step


def make(algorithm=MemoryPPO, critic="separate", core="fast_weights", env=Remembering, **kwargs):
    venv = DummyVecEnv([env] * 3)
    venv.seed(0)
    policy_kwargs = {"core": core, "critic_core": critic, **SMALL}
    return algorithm("MemoryPolicy", venv, n_steps=8, chunk_length=4, seed=0, policy_kwargs=policy_kwargs, **kwargs)


def replayed(policy, observations):
    """Return the states of actor and critic after observations [T, 5] of one episode, from its start."""
    features, critic_features = policy.encode(torch.as_tensor(np.stack(observations)))
    own = None
    if policy.critic_core is not None:
        own = policy.critic_core(critic_features.unsqueeze(1))[1]
    return policy.actor_core(features.unsqueeze(1))[1], own


@torch.no_grad()
def assert_recomputed(model):
    """Check that an update computes the rollout's log-probabilities again."""
    chunks = model.rollout_buffer.chunks()
    _, log_prob, _ = model.policy.evaluate_chunks(chunks)
    torch.testing.assert_close(log_prob, chunks.old_log_prob, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def assert_carried(model):
    """Check that the carried memory is the state after the current episodes' observations except the newest."""
    compared = 0
    for i, env in enumerate(model.env.envs):
        np.testing.assert_array_equal(model._last_obs[i], env.shown[-1])
        assert model._last_episode_starts[i] == (len(env.shown) == 1)
        if len(env.shown) > 1:
            for carried, truth in zip(model._last_states, replayed(model.policy, env.shown[:-1]), strict=True):
                if truth is not None:
                    torch.testing.assert_close([leaf[i] for leaf in carried], [leaf[0] for leaf in truth])
            compared += 1
    return compared


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("critic", CRITICS)
def test_a_stop_carries_the_memory_of_the_present_episodes(algorithm, critic):
    """Learning stops at every step of a rollout and at the first step of the next, then continues from there."""
    model = make(algorithm, critic, learning_rate=0.0)
    compared, ended = 0, 0
    for step in range(1, 10):
        model.learn(10**6, callback=At(step), reset_num_timesteps=False)
        compared += assert_carried(model)
        ended += int(np.sum(model._last_episode_starts))
        expected = model._last_obs.copy()
        model.learn(24, reset_num_timesteps=False)
        np.testing.assert_array_equal(model.rollout_buffer.observations[0], expected)
        assert_recomputed(model)
    assert compared > 10
    assert ended > 1


@pytest.mark.parametrize("core", CORES)
def test_a_stop_carries_the_memory_of_every_core(core):
    model = make(core=core, learning_rate=0.0)
    model.learn(10**6, callback=At(14))
    assert assert_carried(model) > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FloatingPointError("nan"), RuntimeError("its own")])
@pytest.mark.parametrize("step", [1, 3, 11])
def test_after_an_exception_new_episodes_begin(error, step):
    model = make(learning_rate=0.0)
    with pytest.raises(type(error)):
        model.learn(10**6, callback=At(step, error))
    model.learn(24, reset_num_timesteps=False)
    assert model.rollout_buffer.episode_starts[0].all()
    assert_recomputed(model)
    assert_carried(model)


def test_a_stopped_agent_goes_on_in_other_environments():
    model = make(learning_rate=0.0)
    model.learn(10**6, callback=At(5))
    model.set_env(DummyVecEnv([Remembering] * 3))
    model.learn(24, reset_num_timesteps=False)
    assert model.rollout_buffer.episode_starts[0].all()
    assert_carried(model)


def test_an_agent_that_a_callback_saves_goes_on_in_any_number_of_environments(tmp_path):
    class Save(BaseCallback):
        def _on_step(self):
            if self.n_calls == 5:
                self.model.save(tmp_path / "m.zip")
            return True

    make(learning_rate=0.0).learn(24, callback=Save())
    model = MemoryPPO.load(tmp_path / "m.zip", env=DummyVecEnv([Remembering] * 2))
    model.learn(16, reset_num_timesteps=False)
    assert_carried(model)


DTYPES = [np.float32, np.uint8, np.int64, np.int8]


def integers(dtype, dict_space):
    box = spaces.Box(0, 100, (12,), dtype)
    return spaces.Dict({"a": box, "b": spaces.Box(-1, 1, (2,), np.float32)}) if dict_space else box


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dict_space", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_update_sees_what_the_agent_saw_behind_vec_normalize(dtype, dict_space, algorithm):
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(integers(dtype, dict_space), ACTION_SPACES["discrete"])] * 3))
    env.seed(0)
    policy = "MemoryMultiInputPolicy" if dict_space else "MemoryPolicy"
    once = {"n_epochs": 1} if algorithm is MemoryPPO else {}
    model = algorithm(policy, env, n_steps=16, seed=0, policy_kwargs=SMALL, **once)
    seen, encode = [], model.policy.encode
    model.policy.encode = lambda obs, *more: (seen.append(obs), encode(obs, *more))[1]
    model.learn(96)
    if algorithm is MemoryPPO:
        assert abs(model.logger.name_to_value["train/approx_kl"]) < 1e-6
    stored = model.rollout_buffer.observations
    acted_on = [obs for obs in seen if len(obs["a"] if dict_space else obs) == 3][-17:-1]
    for key in ("a", "b") if dict_space else (None,):
        steps = [obs[key] if dict_space else obs for obs in acted_on]
        np.testing.assert_array_equal(stored[key] if dict_space else stored, torch.stack(steps).numpy())


@pytest.mark.parametrize("obs", OBSERVATION_SPACES)
def test_observations_take_no_more_memory_than_their_space(obs):
    env = DummyVecEnv([lambda: RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES["discrete"])] * 2)
    model = MemoryPPO(POLICIES[obs], env, n_steps=4, policy_kwargs=SMALL)
    model.learn(16)
    space, stored = model.observation_space, model.rollout_buffer.observations
    for key in space if isinstance(space, spaces.Dict) else (None,):
        assert (stored if key is None else stored[key]).dtype == (space if key is None else space[key]).dtype


class Cut(gym.Env):
    """An environment that truncates every episode after five steps; ``last`` is the final observation."""

    def __init__(self, last):
        kind = last["b"] if isinstance(last, dict) else last
        box = spaces.Box(-1, 1, (2,), np.float32)
        self.last, self.value = last, kind
        self.observation_space = spaces.Dict({"b": box}) if isinstance(last, dict) else box
        self.action_space = spaces.Discrete(2)

    def _observe(self, value):
        obs = np.full(2, value, np.float32)
        return {"b": obs} if isinstance(self.last, dict) else obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(0), {}

    def step(self, action):
        self.t += 1
        return self._observe(self.value if self.t == 5 else 0), 1.0, False, self.t == 5, {}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("last", [np.nan, np.inf, {"b": np.nan}], ids=str)
def test_a_final_observation_that_is_not_finite_is_named(algorithm, last):
    policy = "MemoryMultiInputPolicy" if isinstance(last, dict) else "MemoryPolicy"
    model = algorithm(
        policy, DummyVecEnv([lambda: Cut(0 if policy == "MemoryPolicy" else {"b": 0}), lambda: Cut(last)])
    )
    part = " 'b'" if isinstance(last, dict) else ""
    with pytest.raises(
        EnvironmentFault, match=rf"terminal observation{part} of environment 1 is (nan|inf) at step 5 of"
    ):
        model.learn(64)


class Silent(DummyVecEnv):
    """A batch that does not return the final observation of an episode."""

    def step_wait(self):
        obs, rewards, dones, infos = super().step_wait()
        return obs, rewards, dones, [{k: v for k, v in info.items() if k != "terminal_observation"} for info in infos]


@pytest.mark.parametrize("pair", [(MemoryPPO, PPO), (MemoryA2C, A2C)])
def test_without_a_final_observation_nothing_is_bootstrapped(pair):
    """As in SB3, the stored rewards are the environment's own."""
    for algorithm, policy in zip(pair, ("MemoryPolicy", "MlpPolicy"), strict=True):
        model = algorithm(policy, Silent([lambda: Cut(0)]), n_steps=16)
        model.learn(16)
        np.testing.assert_array_equal(model.rollout_buffer.rewards, np.ones((16, 1)))


def test_the_observation_after_a_rollout_is_checked_too():
    """It belongs to the next rollout, but the last value of this one is computed from it."""

    class Late(Cut):
        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, False, False, info

    model = MemoryPPO("MemoryPolicy", Late(np.nan), n_steps=5)
    with pytest.raises(EnvironmentFault, match="observation of environment 0 is nan at step 5 of the rollout"):
        model.learn(5)


class Locals(BaseCallback):
    def __init__(self):
        super().__init__()
        self.at_step, self.at_end = None, None

    @staticmethod
    def described(variables):
        return {
            name: (type(value), tuple(getattr(value, "shape", ())), getattr(value, "dtype", None))
            for name, value in variables.items()
        }

    def _on_step(self):
        self.at_step = self.described(self.locals)
        self.steps = [*getattr(self, "steps", []), self.locals["n_steps"]]
        np.testing.assert_array_equal(self.model._last_obs, self.locals["obs_tensor"].numpy())
        return True

    def _on_rollout_end(self):
        self.at_end = self.described(self.locals)


@pytest.mark.parametrize("pair", [(MemoryPPO, PPO), (MemoryA2C, A2C)])
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_callbacks_find_what_they_find_in_sb3(pair, action):
    """Every variable of SB3's rollouts exists with the same type, shape and dtype."""
    found = []
    for algorithm, policy in zip(pair, ("MemoryPolicy", "MlpPolicy"), strict=True):
        env = DummyVecEnv([lambda: RandomEnv(OBSERVATION_SPACES["vector"], ACTION_SPACES[action])] * 2)
        callback = Locals()
        more = {"batch_size": 16} if "PPO" in algorithm.__name__ else {}
        algorithm(policy, env, n_steps=8, **more).learn(32, callback=callback)
        assert callback.steps == [*range(8)] * 2
        found.append(callback)
    names = (
        *("env", "n_rollout_steps", "n_steps", "obs_tensor", "actions", "values", "log_probs", "clipped_actions"),
        *("new_obs", "rewards", "dones", "infos", "self", "callback", "rollout_buffer"),
    )
    classes = ("self", "rollout_buffer")
    for name in names:
        assert name in found[0].at_step
        if name not in classes:
            assert found[0].at_step[name] == found[1].at_step[name], name
    for name in ("n_steps", "values", "dones", "new_obs", "infos"):
        assert found[0].at_end[name] == found[1].at_end[name], name


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
