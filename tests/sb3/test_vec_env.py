"""Natively batched environments under SB3, against SB3's own loop over single environments."""

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from fwagents.sb3 import MemoryPPO, make_vec_env
from fwagents.sb3.vec_env import GymnasiumVecEnv
from tests.envs.families import BATCHED, actions, longest, other_arguments

from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv

COUNT = 5


class TalkingEnv(RandomEnv):
    """A random environment with an info at every step, more in some steps, and at every reset."""

    def reset(self, **kwargs):
        obs, _ = super().reset(**kwargs)
        self.t = 0
        return obs, {"begun": float(self.np_random.random())}

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        self.t += 1
        # Some steps terminate and truncate at once, which SB3 counts as a termination.
        truncated = truncated or (terminated and self.t % 2 == 0)
        info = {"t": self.t, "deep": {"half": self.t / 2}}
        return obs, float(np.float32(reward)), terminated, truncated, {**info, "even": 1} if self.t % 2 == 0 else info


def talking(obs="vector"):
    # A space has its own random generator, so each environment needs its own space.
    return TalkingEnv(copy.deepcopy(OBSERVATION_SPACES[obs]), ACTION_SPACES["discrete"])


def peers(name, n_envs=COUNT, **kwargs):
    """Return the batch, and SB3's own loop, with the same seeds."""
    loop = VecMonitor(DummyVecEnv([lambda: gym.make(name, **kwargs)] * n_envs))
    loop.seed(3)
    return make_vec_env(name, n_envs, seed=3, **kwargs), loop


def same_obs(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return all(same_obs(first[key], second[key]) for key in first)
    return first.dtype == second.dtype and np.array_equal(first, second)


def assert_same_step(step, expected):
    assert same_obs(step[0], expected[0])
    for ours, theirs in zip(step[1:3], expected[1:3], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    for done, info, other in zip(step[2], step[3], expected[3], strict=True):
        info, other = dict(info), dict(other)
        assert info.pop("TimeLimit.truncated", False) == other.pop("TimeLimit.truncated", False)
        assert ("episode" in info) == ("terminal_observation" in info) == done
        if done:
            assert same_obs(info.pop("terminal_observation"), other.pop("terminal_observation"))
            episode, reference = info.pop("episode"), other.pop("episode")
            assert episode["l"] == reference["l"]
            # VecMonitor sums in single precision.
            assert episode["r"] == pytest.approx(reference["r"], rel=1e-6, abs=1e-6)
            assert episode["t"] >= 0
        assert info == other


def play_both(ours, theirs, steps, n_actions=3):
    """Step both batches, check that they are equal throughout, and return the number of ended episodes."""
    rng = np.random.default_rng(0)
    assert same_obs(ours.reset(), theirs.reset())
    assert ours.unwrapped.reset_infos == theirs.unwrapped.reset_infos
    ends = 0
    for _ in range(steps):
        actions = rng.integers(n_actions, size=ours.num_envs)
        step = ours.step(actions)
        assert_same_step(step, theirs.step(actions))
        ends += int(step[2].sum())
    assert ours.unwrapped.reset_infos == theirs.unwrapped.reset_infos
    return ends


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("other", [False, True], ids=["as registered", "other arguments"])
def test_it_is_sb3_s_loop_over_single_environments(name, other):
    ours, theirs = peers(name, **other_arguments(name) if other else {})
    assert isinstance(ours, GymnasiumVecEnv)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    steps, n_actions = 3 * longest(name), actions(name)
    assert play_both(ours, theirs, steps, n_actions) >= 3 * COUNT
    # A second reset continues each environment's own sequence of episodes.
    assert play_both(ours, theirs, steps, n_actions) >= 3 * COUNT


@pytest.mark.parametrize("obs", OBSERVATION_SPACES)
def test_any_batch_will_do(obs):
    """There are terminations, truncations and both at once, nested infos, and every kind of observation."""
    batch = SyncVectorEnv([lambda: talking(obs)] * COUNT, autoreset_mode=AutoresetMode.SAME_STEP)
    ours, theirs = GymnasiumVecEnv(batch), VecMonitor(DummyVecEnv([lambda: talking(obs)] * COUNT))
    ours.seed(1)
    theirs.seed(1)
    assert play_both(ours, theirs, steps=60) > 20


def test_which_environments_run_as_a_batch():
    for name in BATCHED:
        assert isinstance(make_vec_env(name, 2), GymnasiumVecEnv)
        assert isinstance(make_vec_env(f"fwagents.envs:{name}", 2), GymnasiumVecEnv)
    # CartPole has a batch, which cannot reset in the same step; Pendulum has none.
    for name, kwargs in [("CartPole-v1", {}), ("Pendulum-v1", {"g": 9.8}), ("CartPoleNoVel-v1", {})]:
        env = make_vec_env(name, 2, seed=0, **kwargs)
        assert isinstance(env, VecMonitor)
        assert isinstance(env.venv, DummyVecEnv)
        single = gym.make(name, **kwargs)
        np.testing.assert_array_equal(env.reset()[1], single.reset(seed=1)[0])


def test_a_time_limit_holds():
    env = make_vec_env("PartialCatch-v0", 2, seed=0, max_episode_steps=4)
    env.reset()
    for step in range(1, 9):
        _, _, dones, infos = env.step(np.zeros(2, int))
        assert dones.all() == dones.any() == (step % 4 == 0)
        assert all(info["TimeLimit.truncated"] == (step % 4 == 0) for info in infos)


def test_without_a_seed_every_batch_is_its_own():
    assert len({make_vec_env("PartialCatch-v0", 8).reset().tobytes() for _ in range(5)}) > 1


@pytest.mark.parametrize("steps", [0, 7, 15, 22])
def test_a_state_goes_on_identically(steps):
    first, second = make_vec_env("PartialCatch-v0", COUNT, seed=0), make_vec_env("PartialCatch-v0", COUNT, seed=9)
    first.reset()
    for _ in range(steps):
        first.step(np.ones(COUNT, int))
    state = first.get_state()
    second.set_state(state)
    rng = np.random.default_rng(0)
    for _ in range(35):
        actions = rng.integers(3, size=COUNT)
        assert_same_step(first.step(actions), second.step(actions))
    # The stored observations have not changed with the environment.
    third = make_vec_env("PartialCatch-v0", COUNT)
    third.set_state(state)
    assert (third.lengths == steps % 15).all()


def test_a_batch_that_cannot_tell_its_state_says_so():
    batch = SyncVectorEnv([talking] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    assert GymnasiumVecEnv(batch).get_state() is None


def test_options_reach_the_batch():
    ours, theirs = peers("PartialCatch-v0")
    for env in (ours, theirs):
        env.set_options({"ball": 3})
    assert same_obs(ours.reset(), theirs.reset())
    assert (ours.env.get_state()["ball"] == 3).all()
    # The options apply to one reset.
    assert same_obs(ours.reset(), theirs.reset())
    ours.set_options([{"ball": i} for i in range(COUNT)])
    with pytest.raises(ValueError, match=r"options is .* the same everywhere"):
        ours.reset()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_vec_env("PartialCatch-v0", 0), ValueError, "n_envs is 0"),
        (lambda: make_vec_env("PartialCatch-v0", 2.0), ValueError, r"n_envs is 2\.0"),
        (lambda: make_vec_env("NoSuch-v0"), gym.error.Error, "NoSuch"),
        (lambda: make_vec_env("no_such_module:NoSuch-v0"), ModuleNotFoundError, "no_such_module"),
        (lambda: make_vec_env("PartialCatch-v0", 2, sizes=3), TypeError, "sizes"),
        (lambda: make_vec_env("PartialCatch-v0", 2, size=1), ValueError, "size must be at least 2, got 1"),
        (
            lambda: GymnasiumVecEnv(gym.make_vec("PartialCatch-v0", 2)),
            ValueError,
            "autoreset_mode is AutoresetMode.NEXT_STEP, expected AutoresetMode.SAME_STEP",
        ),
        (
            lambda: make_vec_env("PartialCatch-v0", 2).env_method("get_state", indices=[1]),
            ValueError,
            r"indices is \[1\], expected None",
        ),
        (lambda: make_vec_env("PartialCatch-v0", 2).set_attr("x", 1, indices=0), ValueError, "indices is 0"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_attributes_and_methods():
    env = make_vec_env("PartialCatch-v0", 3, seed=0)
    env.reset()
    assert env.get_attr("num_envs") == [3, 3, 3]
    assert env.get_attr("num_envs", [0, 2]) == [3, 3]
    env.set_attr("mark", 7)
    assert env.get_attr("mark", 1) == [7]
    assert [state["frame"].tolist() for state in env.env_method("get_state")] == [[1, 1, 1]] * 3
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, [0]) == [False]
    env.close()


def test_pictures():
    env = make_vec_env("PartialCatch-v0", 2, seed=0, render_mode="rgb_array")
    env.reset()
    single = gym.make("PartialCatch-v0", render_mode="rgb_array")
    single.reset(seed=1)
    images = env.get_images()
    assert len(images) == 2
    np.testing.assert_array_equal(images[1], single.render())
    assert env.render().ndim == 3, "the pictures side by side"
    blind = make_vec_env("PartialCatch-v0", 2)
    blind.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert list(blind.get_images()) == [None, None]


@pytest.mark.parametrize(
    "wrap", [lambda env: VecNormalize(env, gamma=0.9), lambda env: VecFrameStack(env, 3)], ids=["normalize", "stack"]
)
def test_sb3_s_wrappers_fit(wrap):
    kwargs = {"visible_frames": None, "size": 6}
    ours, theirs = (wrap(env) for env in peers("PartialCatch-v0", **kwargs))
    assert play_both(ours, theirs, steps=40) >= 5 * COUNT
    model = MemoryPPO("MemoryPolicy", ours, n_steps=10, n_epochs=1, policy_kwargs={"hidden_size": 4}, device="cpu")
    model.learn(100)


def test_evaluation_has_nothing_to_warn_of():
    env = make_vec_env("PartialCatch-v0", 4, seed=0)
    model = MemoryPPO("MemoryPolicy", env, n_steps=10, policy_kwargs={"hidden_size": 4}, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(model, env, n_eval_episodes=12, return_episode_rewards=True)
    assert set(returns) <= {1.0, -1.0}
    assert lengths == [15] * 12


class Counting(gym.Env):
    """An environment whose observation is the number of steps in the episode."""

    observation_space, action_space = spaces.Box(0, 1e6, (1,), np.float32), spaces.Discrete(2)
    length = 4

    def __init__(self, begins_at=0):
        self.begins_at = begins_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.full(1, self.begins_at, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t + self.begins_at, np.float32), 1.0, self.t >= self.length, False, {}


class OneArray(VectorEnv):
    """``Counting`` as one batch that reuses one array for its observations and has an info without a mask."""

    def __init__(self, num_envs=1, autoreset_mode=AutoresetMode.SAME_STEP):
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = Counting.observation_space, Counting.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.array = np.zeros((num_envs, 1), np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = np.zeros(self.num_envs, int)
        self.array[:] = 0
        return self.array, {}

    def step(self, actions):
        self.t += 1
        over = self.t >= Counting.length
        infos = {"speed": self.t.copy(), "world": "flat"}
        if over.any():
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(over):
                final[i] = np.full(1, self.t[i], np.float32)
            infos |= {"final_obs": final, "_final_obs": over}
        self.t = np.where(over, 0, self.t)
        self.array[:] = self.t[:, None]
        return self.array, np.ones(self.num_envs), over, np.zeros(self.num_envs, bool), infos


def test_a_batch_may_write_into_one_array_and_leave_out_masks():
    env = GymnasiumVecEnv(OneArray(2))
    model = MemoryPPO("MemoryPolicy", env, n_steps=6).learn(12)
    assert model.rollout_buffer.observations[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    env.reset()
    _, _, _, infos = env.step(np.zeros(2, int))
    assert infos == [{"speed": 1, "world": "flat"}] * 2


def test_gymnasium_s_batches_are_taken_as_they_are():
    model = MemoryPPO("MemoryPolicy", OneArray(3), n_steps=8).learn(24)
    assert model.n_envs == 3
    with pytest.raises(ValueError, match=r"expected AutoresetMode.SAME_STEP: gymnasium.make_vec"):
        MemoryPPO("MemoryPolicy", gym.make_vec("PartialCatch-v0", 2))


def test_a_batch_tells_the_spaces_of_one_environment():
    batch, loop = peers("PartialCatch-v0")
    for name in ("observation_space", "action_space"):
        assert batch.get_attr(name) == loop.get_attr(name)


def test_it_takes_what_sb3_s_function_takes(tmp_path):
    made = [
        make_vec_env(Counting, 2, 3, env_kwargs={"begins_at": 5}),
        make_vec_env(lambda begins_at: Counting(begins_at), 2, 3, begins_at=5, vec_env_cls=DummyVecEnv),
        make_vec_env(
            Counting,
            n_envs=2,
            seed=3,
            start_index=4,
            monitor_dir=str(tmp_path),
            monitor_kwargs={"info_keywords": ()},
            env_kwargs={"begins_at": 4},
            wrapper_class=gym.wrappers.TransformObservation,
            wrapper_kwargs={"func": lambda obs: obs + 1, "observation_space": Counting.observation_space},
        ),
    ]
    for env in made:
        assert env.reset().ravel().tolist() == [5, 5]
        for _ in range(4):
            _, _, dones, infos = env.step([0, 0])
        assert dones.all()
        assert all(info["episode"]["r"] == 4 for info in infos)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4.monitor.csv", "5.monitor.csv"]
    with pytest.raises(TypeError, match="env_id is 7, expected a Gymnasium id, or a function"):
        make_vec_env(7)


def test_an_environment_that_only_this_process_knows_runs_in_others():
    gym.register("OnlyHere-v0", entry_point=Counting)
    try:
        env = make_vec_env("OnlyHere-v0", 1, vec_env="subproc", begins_at=2)
        assert env.reset().ravel().tolist() == [2]
        env.close()
    finally:
        del gym.registry["OnlyHere-v0"]
