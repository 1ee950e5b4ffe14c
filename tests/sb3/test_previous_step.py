"""``VecPreviousStep`` against ``PreviousStep`` around each environment."""

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from fwagents.envs import ENVIRONMENTS
from fwagents.envs.wrappers import PreviousStep
from fwagents.inspection import trace
from fwagents.inspection.film import as_shown, sight
from fwagents.sb3 import MemoryA2C, MemoryPPO, VecPreviousStep, make_vec_env
from fwagents.sb3.normalizing import normalized
from fwagents.sb3.registry import policy_for
from fwagents.sb3.vec_env import GymnasiumVecEnv

from .test_vec_env import assert_same_step, same_obs
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv

COUNT = 3
BOTH = ("action", "reward")
OBSERVATIONS = OBSERVATION_SPACES | {
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "long integers": spaces.Box(-5, 5, (2,), np.int64),
    "doubles": spaces.Box(-1, 1, (2,), np.float64),
    "matrix": spaces.Box(-1, 1, (2, 2), np.float32),
    "multi discrete": spaces.MultiDiscrete([2, 3]),
    "multi binary": spaces.MultiBinary(3),
}
ACTIONS = ACTION_SPACES | {
    "multi discrete of two rows": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "multi binary of two rows": spaces.MultiBinary((2, 2)),
    "box of two rows": spaces.Box(1, 3, (2, 2), np.float32),
}


class Talking(RandomEnv):
    """A random environment with action masks."""

    def action_masks(self):
        return np.ones(3, bool)


def random_env(obs="vector", act="discrete"):
    # A space has its own random generator, so each environment needs its own space.
    return Talking(copy.deepcopy(OBSERVATIONS[obs]), copy.deepcopy(ACTIONS[act]))


def play_both(ours, theirs, steps):
    """Step both batches, check that they are equal throughout, and return the number of ended episodes."""
    assert ours.observation_space == theirs.observation_space
    theirs.action_space.seed(0)
    assert same_obs(ours.reset(), theirs.reset())
    ends = 0
    for _ in range(steps):
        actions = np.array([theirs.action_space.sample() for _ in range(ours.num_envs)])
        step = ours.step(actions)
        assert_same_step(step, theirs.step(actions))
        ends += int(step[2].sum())
    return ends


def peers(make, observe):
    ours = VecPreviousStep(VecMonitor(DummyVecEnv([make] * COUNT)), observe)
    theirs = VecMonitor(DummyVecEnv([lambda: PreviousStep(make(), observe)] * COUNT))
    for env in (ours, theirs):
        env.seed(4)
    return ours, theirs


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_it_is_the_wrapper_around_each_environment(obs, act):
    assert play_both(*peers(lambda: random_env(obs, act), BOTH), steps=25) > 5


@pytest.mark.parametrize("observe", [["action"], ["reward"], ["reward", "action"]])
@pytest.mark.parametrize("obs", ["vector", "dict", "image"])
def test_either_or_both_are_told(obs, observe):
    assert play_both(*peers(lambda: random_env(obs), observe), steps=25) > 5


class Outside(VecEnvWrapper):
    """A wrapper that only turns its infos into a tuple, as SubprocVecEnv does."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        *step, infos = self.venv.step_wait()
        return *step, tuple(infos)


@pytest.mark.parametrize("obs", ["vector", "dict"])
def test_infos_may_be_a_tuple(obs):
    ours, theirs = peers(lambda: random_env(obs), BOTH)
    ours.venv = Outside(ours.venv)
    assert play_both(ours, theirs, steps=25) > 5


@pytest.mark.slow
@pytest.mark.parametrize("obs", ["vector", "dict"])
def test_processes_are_told_the_same(obs):
    theirs = peers(lambda: random_env(obs), BOTH)[1]
    ours = make_vec_env(lambda: random_env(obs), COUNT, seed=4, observe=BOTH, vec_env="subproc")
    try:
        assert same_obs(ours.reset(), theirs.reset())
        ends = 0
        for _ in range(25):
            (obs, _, dones, infos), (same, _, _, others) = (env.step(np.ones(COUNT, int)) for env in (ours, theirs))
            assert same_obs(obs, same)
            for i in np.flatnonzero(dones):
                assert same_obs(infos[i]["terminal_observation"], others[i]["terminal_observation"])
                ends += 1
        assert ends > 5
    finally:
        ours.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_packages_environments_however_they_are_made(name):
    """An environment with a native batch runs as one batch."""
    ours = make_vec_env(name, COUNT, seed=4, observe=BOTH)
    theirs = VecMonitor(DummyVecEnv([lambda: PreviousStep(gym.make(name))] * COUNT))
    theirs.seed(4)
    assert isinstance(ours, VecPreviousStep)
    assert isinstance(ours.unwrapped, GymnasiumVecEnv) == bool(ENVIRONMENTS[name].vector_entry_point)
    assert play_both(ours, theirs, steps=210) >= COUNT


def test_sb3_stacks_what_is_told_too():
    ours, theirs = (VecFrameStack(env, 3) for env in peers(random_env, BOTH))
    assert play_both(ours, theirs, steps=25) > 5


class Short(gym.Env):
    """An environment that counts its steps, truncates after two, and has the reward t at step t."""

    observation_space, action_space = spaces.Box(0, 9, (1,), np.float32), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), float(self.t), False, self.t == 2, {}


def test_the_end_of_an_episode_by_hand():
    """The vector holds the observation, the one-hot action, the reward and the flag."""
    env = make_vec_env(Short, 2, observe=BOTH)
    assert env.reset().tolist() == [[0, 0, 0, 0, 0, 1]] * 2
    assert env.step(np.array([0, 2]))[0].tolist() == [[1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0]]
    obs, rewards, dones, infos = env.step(np.array([1, 2]))
    assert (dones.all(), rewards.tolist()) == (True, [2, 2])
    assert obs.tolist() == [[0, 0, 0, 0, 0, 1]] * 2, "the next episode opens, and nothing is told"
    assert [info["terminal_observation"].tolist() for info in infos] == [[2, 0, 1, 0, 2, 0], [2, 0, 0, 1, 2, 0]]
    assert env.step(np.array([0, 0]))[0].tolist() == [[1, 1, 0, 0, 1, 0]] * 2


@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C])
def test_a_cut_episode_bootstraps_from_what_it_was_told_last(algorithm):
    """If the value is the added reward, each episode's last reward becomes 2 + gamma 2 and no other changes."""
    env = make_vec_env(Short, 1, observe=["reward"])
    model = algorithm("MemoryPolicy", env, n_steps=4, gamma=0.5, learning_rate=0.0, device="cpu")
    seen = []
    policy = model.policy

    def values_after(obs, states, start):
        seen.append(obs.tolist())
        return obs[:, 1]

    policy.values_after = values_after
    model.learn(4)
    assert seen == [[[2, 2, 0]], [[2, 2, 0]], [[0, 0, 1]]], "two cuts, and the observation after the rollout"
    assert model.rollout_buffer.rewards.ravel().tolist() == [1, 3, 1, 3]


@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_the_raw_reward_is_told_inside_vec_normalize(obs):
    """The added reward is the environment's own; VecNormalize scales it to unit variance like the other parts."""
    ours, plain = (DummyVecEnv([lambda: random_env(obs)] * COUNT) for _ in range(2))
    env = normalized(VecPreviousStep(ours), ())
    for each in (env, plain):
        each.seed(2)
        each.reset()
    for _ in range(20):
        actions = np.zeros(COUNT, int)
        _, rewards, dones, _ = env.step(actions)
        raw = plain.step(actions)[1]
        told = env.get_original_obs()
        told = told["previous_reward"][:, 0] if isinstance(told, dict) else told[:, -2]
        np.testing.assert_array_equal(told, np.where(dones, 0, raw))
        np.testing.assert_array_equal(env.get_original_reward(), raw)
        assert not np.array_equal(rewards, raw)
    told = env.obs_rms["previous_reward"].mean[0] if isinstance(env.obs_rms, dict) else env.obs_rms.mean[-2]
    assert 0.3 < told < 0.6, "rewards are uniform from 0 to 1, and one in five opens an episode"


@pytest.mark.parametrize(
    ("obs", "act"),
    [("bytes", "discrete"), ("discrete", "box"), ("image", "multi_discrete"), ("dict", "multi_binary")],
)
def test_agents_learn_from_all_of_them(obs, act):
    env = VecPreviousStep(DummyVecEnv([lambda: random_env(obs, act)] * COUNT))
    kwargs = {"hidden_size": 4, "core": "gru"}
    model = MemoryPPO(policy_for(env.observation_space), env, n_steps=12, policy_kwargs=kwargs, device="cpu")
    model.learn(36)
    assert np.isfinite(model.rollout_buffer.values).all()


class TwoArms(gym.Env):
    """One of two arms pays 1. An episode has ten pulls and constant observations.

    The best return is 9.5: one guess, then the paying arm. A player that does not know its rewards has 5.
    """

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pulls, self.pays = 0, self.np_random.integers(2)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.pulls += 1
        return np.zeros(1, np.float32), float(action == self.pays), self.pulls == 10, False, {}


def test_an_agent_learns_from_what_it_is_told():
    env = make_vec_env(TwoArms, 32, seed=0, observe=BOTH)
    policy = {"core": "gru", "hidden_size": 32}
    model = MemoryPPO("MemoryPolicy", env, n_steps=10, seed=0, learning_rate=1e-3, ent_coef=0.01, policy_kwargs=policy)
    model.learn(20_000)
    assert evaluate_policy(model, env, n_eval_episodes=200, warn=False)[0] > 9


@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_sb3_has_nothing_to_object_to(obs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about image sizes and the like concern the inner environment
        check_env(PreviousStep(random_env(obs)))


def test_attributes_and_methods_pass_through():
    env = Outside(make_vec_env(random_env, COUNT, observe=BOTH, env_kwargs={"obs": "dict"}, wrapper_class=Monitor))
    env.reset()
    assert env.env_is_wrapped(Monitor) == [True] * COUNT
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * COUNT
    assert env.has_attr("action_masks")
    assert [mask.tolist() for mask in env.env_method("action_masks", indices=[0, 2])] == [[True] * 3] * 2
    assert env.get_attr("observation_space", 0) == [OBSERVATIONS["dict"]], "of the environment itself"
    env.set_attr("mark", 7, indices=1)
    assert env.get_attr("mark", 1) == [7]
    assert env.seed(3) == [3, 4, 5]
    env.close()


def test_a_film_shows_the_screen_alone():
    """The film is the same as without the wrapper, although the agent's observation is larger."""
    told = PreviousStep(gym.make("PartialCatch-v0"))
    model = MemoryPPO("MemoryPolicy", make_vec_env("PartialCatch-v0", 1, observe=BOTH), n_steps=8, device="cpu")
    seen = trace(model, told, seed=3)
    assert seen.observations.shape[2:] == (256 + 3 + 1 + 1,)
    shown = as_shown(seen, told)
    plain = gym.make("PartialCatch-v0")
    screen = plain.reset(seed=3)[0]
    for t in range(len(seen.start)):
        np.testing.assert_array_equal(sight(shown.observations, t), 255 * screen.reshape(16, 16))
        screen = plain.step(seen.actions[t, 0])[0]
    assert as_shown(seen, plain) is seen


def test_for_env_takes_it():
    model = MemoryPPO.for_env("PendulumNoVel-v1", observe=["reward"], num_envs=2, normalize=True)
    assert model.observation_space.shape == (4,)
    assert isinstance(model.get_env(), VecNormalize)
    assert isinstance(model.get_env().venv, VecPreviousStep)
    assert MemoryPPO.for_env("PendulumNoVel-v1", num_envs=2).observation_space.shape == (2,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda env: VecPreviousStep(env, ()), r"observe is \(\), expected a list of 'action', 'reward' or both"),
        (lambda env: make_vec_env(Short, 1, observe=["obs"]), r"observe is \['obs'\]"),
        (lambda env: make_vec_env("PartialCatch-v0", 1, observe="action"), "observe is 'action', expected a list"),
        (
            lambda env: VecPreviousStep(VecMonitor(VecNormalize(env))),
            r"expected VecNormalize\(VecPreviousStep\(venv\)\)",
        ),
        (
            lambda env: make_vec_env(lambda: PreviousStep(random_env("dict")), 1, observe=["reward"]),
            "the key 'previous_reward', expected none of previous_reward, episode_start",
        ),
        (
            lambda env: make_vec_env(
                lambda: gym.wrappers.TransformAction(Short(), lambda a: a - 1, spaces.Discrete(3, start=1)),
                1,
                observe=["action"],
            ),
            r"the action space is Discrete\(3, start=1\), expected a space that starts at 0",
        ),
        (
            lambda env: make_vec_env(
                lambda: gym.wrappers.TransformAction(Short(), lambda a: a[0], spaces.Tuple([spaces.Discrete(3)])),
                1,
                observe=["action"],
            ),
            r"the action space is Tuple\(Discrete\(3\)\), expected Box, Discrete",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(DummyVecEnv([Short]))
