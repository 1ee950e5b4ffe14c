"""SB3's wrappers, callbacks and loggers work with our agents as documented."""

import csv
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwagents.sb3 import MemoryA2C, MemoryPPO

from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv, RecallEnv, ScriptedEnv

pytestmark = pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C, RecurrentPPO])


class Drifting(RandomEnv):
    """An environment whose observations are far from zero."""

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return 100 + 10 * obs, info

    def step(self, action):
        obs, *rest = super().step(action)
        return 100 + 10 * obs, *rest


def random_env(kind=RandomEnv):
    return kind(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"])


def scripted():
    return ScriptedEnv(truncate=(), terminate=(7, 15, 23, 31, 39))


def agent(algorithm, venv, policy="MemoryPolicy", **kwargs):
    kwargs = {"n_steps": 12, "seed": 0, "device": "cpu", "policy_kwargs": {"hidden_size": 8}, **kwargs}
    return algorithm(policy, venv, **kwargs)


def batch(make=random_env, count=2):
    venv = DummyVecEnv([make] * count)
    venv.seed(0)
    return venv


def monitored(count=2):
    return VecMonitor(batch(RecallEnv, count))


def weights(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_vec_normalize(algorithm, tmp_path):
    venv = VecNormalize(batch(lambda: random_env(Drifting)))
    model = agent(algorithm, venv)
    model.learn(96)
    stored = np.asarray(model.rollout_buffer.observations)
    assert abs(stored.mean()) < 0.5, "it learned from what is normalised"
    assert np.abs(stored).max() <= venv.clip_obs
    assert np.abs(venv.get_original_obs()).min() > 80
    venv.save(tmp_path / "statistics.pkl")
    model.save(tmp_path / "model.zip")
    again = VecNormalize.load(tmp_path / "statistics.pkl", batch(lambda: random_env(Drifting)))
    again.training = False
    loaded = algorithm.load(tmp_path / "model.zip", env=again)
    original = venv.get_original_obs()
    actions = [m.predict(v.normalize_obs(original), deterministic=True)[0] for m, v in ((model, venv), (loaded, again))]
    np.testing.assert_array_equal(*actions)


BOXES = spaces.Dict({"a": spaces.Box(-1, 1, (3,), np.float32), "b": spaces.Box(-1, 1, (2,), np.float32)})
STACKED = {
    "MemoryPolicy": (OBSERVATION_SPACES["vector"], (15,)),
    "MemoryCnnPolicy": (OBSERVATION_SPACES["image"], (3, 36, 36)),
    "MemoryMultiInputPolicy": (BOXES, {"a": (9,), "b": (6,)}),
}


@pytest.mark.parametrize("policy", STACKED)
def test_vec_frame_stack(policy, algorithm):
    space, shape = STACKED[policy]
    venv = VecFrameStack(batch(lambda: RandomEnv(space, ACTION_SPACES["discrete"])), n_stack=3)
    model = agent(algorithm, venv, policy)
    before = weights(model)
    model.learn(48)
    assert not same(before, weights(model))
    seen = model.observation_space
    assert shape == ({name: part.shape for name, part in seen.items()} if isinstance(shape, dict) else seen.shape)


@pytest.mark.parametrize("monitor", [Monitor, VecMonitor])
def test_monitors(monitor, algorithm, tmp_path):
    """Episodes have 8 steps and known returns."""
    path = str(tmp_path / "log")
    if monitor is Monitor:
        venv = DummyVecEnv([lambda: Monitor(scripted(), path)])
    else:
        venv = VecMonitor(DummyVecEnv([scripted]), path)
    model = agent(algorithm, venv, n_steps=8)
    model.learn(16)
    first, second = ScriptedEnv.rewards[:7].sum(), ScriptedEnv.rewards[7:15].sum()
    assert [e["r"] for e in model.ep_info_buffer] == pytest.approx([first, second], abs=1e-5)
    assert [e["l"] for e in model.ep_info_buffer] == [7, 8]
    venv.close()
    with open(tmp_path / "log.monitor.csv") as file:
        next(file)
        assert [float(row["r"]) for row in csv.DictReader(file)] == pytest.approx([first, second], abs=1e-5)


def test_subprocesses(algorithm):
    """Environments in other processes give the same episodes as in this one."""
    models = []
    for kind in (DummyVecEnv, SubprocVecEnv):
        venv = kind([RecallEnv] * 2)
        venv.seed(0)
        model = agent(algorithm, venv)
        model.learn(48)
        models.append(weights(model))
        venv.close()
    assert same(*models)


def test_eval_callback_keeps_the_best(algorithm, tmp_path):
    callback = EvalCallback(
        monitored(1), n_eval_episodes=10, eval_freq=24, log_path=tmp_path, best_model_save_path=tmp_path, verbose=0
    )
    model = agent(algorithm, monitored(), learning_rate=0.01)
    model.learn(192, callback=callback)
    with np.load(tmp_path / "evaluations.npz") as kept:
        returns = kept["results"].mean(1)
        assert kept["timesteps"].tolist() == [48, 96, 144, 192]
    assert callback.best_mean_reward == returns.max()
    assert set(np.round(5 * returns, 4)) <= set(range(-5, 6)), "means of ten times +1 or -1"
    assert algorithm.load(tmp_path / "best_model.zip").num_timesteps == 48 * (1 + int(returns.argmax()))


def test_checkpoints_are_the_agents_of_their_time(algorithm, tmp_path):
    seen = {}

    class Noting(BaseCallback):
        def _on_step(self):
            seen[self.num_timesteps] = weights(self.model)
            return True

    model = agent(algorithm, batch())
    model.learn(72, callback=CallbackList([Noting(), CheckpointCallback(12, tmp_path, name_prefix="agent")]))
    steps = sorted(int(path.stem.split("_")[1]) for path in tmp_path.glob("agent_*_steps.zip"))
    assert steps == [24, 48, 72]
    for step in steps:
        assert same(weights(algorithm.load(tmp_path / f"agent_{step}_steps.zip")), seen[step])


@pytest.mark.parametrize(("threshold", "steps"), [(-2.0, 24), (2.0, 96)])
def test_stop_training_on_reward_threshold(threshold, steps, algorithm):
    """Returns lie between -1 and 1, so training stops at the first evaluation, or never."""
    stop = StopTrainingOnRewardThreshold(reward_threshold=threshold)
    callback = EvalCallback(monitored(1), callback_on_new_best=stop, n_eval_episodes=4, eval_freq=12, verbose=0)
    model = agent(algorithm, monitored())
    model.learn(96, callback=callback)
    assert model.num_timesteps == steps


def test_every_callback_of_a_list_is_asked_at_every_step(algorithm):
    class Counting(BaseCallback):
        def _init_callback(self):
            self.counts = dict.fromkeys(("steps", "rollouts", "begun", "ended"), 0)

        def _on_training_start(self):
            self.counts["begun"] += 1

        def _on_step(self):
            self.counts["steps"] += 1
            return True

        def _on_rollout_end(self):
            self.counts["rollouts"] += 1

        def _on_training_end(self):
            self.counts["ended"] += 1

    callbacks = [Counting(), Counting()]
    agent(algorithm, batch()).learn(48, callback=CallbackList(callbacks))
    for callback in callbacks:
        assert callback.counts == {"steps": 24, "rollouts": 2, "begun": 1, "ended": 1}


def test_dict_observations_of_goal_environments(algorithm):
    """Every part reaches the action: changing one part changes the action distribution."""
    from stable_baselines3.common.envs import BitFlippingEnv

    model = agent(algorithm, DummyVecEnv([lambda: BitFlippingEnv(n_bits=4)]), "MemoryMultiInputPolicy")
    model.learn(24)
    obs = model.get_env().reset()
    assert set(obs) == {"observation", "achieved_goal", "desired_goal"}
    layers, _, width = model.policy.lstm_hidden_state_shape
    states = (torch.zeros(layers, 1, width), torch.zeros(layers, 1, width))

    def probabilities(seen):
        tensors, _ = model.policy.obs_to_tensor(seen)
        with torch.no_grad():
            return model.policy.get_distribution(tensors, states, torch.ones(1))[0].distribution.probs

    for part in obs:
        assert not torch.equal(probabilities({**obs, part: 1 - obs[part]}), probabilities(obs)), part


def test_evaluate_policy_carries_the_memory(algorithm):
    """A player that remembers the cue always wins; one that forgets it wins half of the time."""
    model = agent(algorithm, batch(RecallEnv))
    answer_from_memory(model)
    returns, lengths = evaluate_policy(model, batch(RecallEnv, 1), 12, return_episode_rewards=True, warn=False)
    assert lengths == [4] * 12
    assert returns == [1.0] * 12


def answer_from_memory(model):
    """Set the last layer's weights so that it separates the memory's final outputs after the two cues of RecallEnv."""
    latents = []
    head = model.policy.action_net
    hook = head.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0][0]))
    env, state = RecallEnv(), None
    for cue in range(2):
        env.cue = cue
        for t in range(env.length):
            env.t = t
            _, state = model.predict(env._observation(), state, np.array([t == 0]))
    hook.remove()
    zero, one = latents[env.length - 1 :: env.length]
    with torch.no_grad():
        head.weight.copy_(torch.stack([zero - one, one - zero]))
        head.bias.copy_(-(head.weight @ (zero + one)) / 2)


def test_loggers_agree(algorithm, tmp_path):
    model = agent(algorithm, VecMonitor(batch()), verbose=0)
    model.set_logger(configure(str(tmp_path), ["csv", "json", "tensorboard"]))
    model.learn(72, log_interval=1)
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [row["time/total_timesteps"] for row in rows] == ["24", "48", "72"]
    for key in ("rollout/ep_rew_mean", "train/value_loss", "train/entropy_loss"):
        points = [e.value for e in events.Scalars(key)]
        assert len(points) >= 2
        assert [line[key] for line in lines if key in line] == pytest.approx(points, rel=1e-5)
        assert [float(row[key]) for row in rows if row[key]] == pytest.approx(points, rel=1e-5)


def test_set_parameters(algorithm):
    one, other = (agent(algorithm, batch(), seed=seed) for seed in (1, 2))
    one.learn(24)
    assert not same(weights(one), weights(other))
    other.set_parameters(one.get_parameters())
    assert same(weights(one), weights(other))
    assert one.policy.optimizer.state_dict()["state"].keys() == other.policy.optimizer.state_dict()["state"].keys()


def test_get_env_and_set_env(algorithm):
    venv = batch()
    model = agent(algorithm, venv)
    assert model.get_env() is venv
    model.learn(24)
    model.set_env(batch())
    model.learn(24, reset_num_timesteps=False)
    assert model.num_timesteps == 48
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(batch(lambda: RandomEnv(OBSERVATION_SPACES["discrete"], ACTION_SPACES["discrete"])))


def test_learning_twice_is_learning_on(algorithm):
    """Two consecutive calls equal one call with as many steps."""
    whole, parts = (agent(algorithm, batch(), learning_rate=1e-3) for _ in range(2))
    whole.set_random_seed(5)
    whole.learn(96)
    parts.set_random_seed(5)
    parts.learn(48)
    parts.learn(48, reset_num_timesteps=False)
    assert whole.num_timesteps == parts.num_timesteps == 96
    assert same(weights(whole), weights(parts))


def test_a_gymnasium_environment_by_its_id(algorithm):
    model = agent(algorithm, "CartPole-v1")
    model.learn(24)
    assert isinstance(model.get_env().envs[0], gym.Env)
    assert model.get_env().env_is_wrapped(Monitor) == [True]
