"""Small environments for the agents' tests."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv


class RandomEnv(gym.Env):
    """Random observations from any space, random rewards, and episodes of random length, half of them truncated."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        end = self.np_random.random()
        return self.observation_space.sample(), self.np_random.random(), end < 0.1, 0.1 <= end < 0.2, {}


class RecallEnv(gym.Env):
    """The cue is visible only in the first frame and must be named in the last.

    +1 for the right answer, -1 for the wrong one. Without memory the answer is a guess between two: 0 on average.
    """

    length = 4

    def __init__(self):
        self.observation_space, self.action_space = spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(2)

    def _observation(self):
        obs = np.zeros(3, np.float32)
        if self.t == 0:
            obs[self.cue] = 1
        obs[2] = self.t == self.length - 1
        return obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(2))
        return self._observation(), {}

    def step(self, action):
        last = self.t == self.length - 1
        self.t += 1
        return self._observation(), (1.0 if action == self.cue else -1.0) if last else 0.0, last, False, {}


def until(reward, venv, episodes=100):
    """Return a callback that stops training once greedy episodes have a mean return of at least ``reward``."""
    stop = StopTrainingOnRewardThreshold(reward, verbose=0)
    return EvalCallback(
        venv,
        callback_on_new_best=stop,
        n_eval_episodes=episodes,
        eval_freq=1024 // venv.num_envs,
        verbose=0,
        warn=False,
    )


def recall_after(model, steps):
    """Train on ``RecallEnv`` for ``steps`` or until it is solved; return the mean return of greedy play.

    The best memoryless mean is 0, which a sample can exceed by chance; a perfect player has 1.
    """
    venv = DummyVecEnv([RecallEnv] * 16)
    model.learn(steps, until(0.95, venv))
    return evaluate_policy(model, venv, n_eval_episodes=100, warn=False)[0]


class ScriptedEnv(gym.Env):
    """Fixed observations and rewards for all actions; episodes end at the given steps.

    The final observation of a truncated episode is repeated as the first of the next.
    """

    observations = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    rewards = np.random.default_rng(1).normal(size=40)

    def __init__(self, truncate, terminate):
        self.truncate, self.terminate, self.line = truncate, terminate, 0
        self.observation_space, self.action_space = spaces.Box(-9, 9, (3,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.observations[self.line], {}

    def step(self, action):
        self.line += 1
        ended, cut = self.line in self.terminate, self.line in self.truncate
        return self.observations[self.line], self.rewards[self.line - 1], ended, cut, {}


OBSERVATION_SPACES = {
    "vector": spaces.Box(-1, 1, (5,), np.float32),
    "discrete": spaces.Discrete(6),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "small_image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "dict": spaces.Dict({"a": spaces.Box(-1, 1, (3,), np.float32), "b": spaces.Discrete(4)}),
    "images": spaces.Dict(
        {size: spaces.Box(0, 255, (side, side, 2), np.uint8) for size, side in (("s", 7), ("l", 40))}
    ),
}
ACTION_SPACES = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}
POLICIES = {
    "vector": "MemoryPolicy",
    "discrete": "MemoryPolicy",
    "image": "MemoryCnnPolicy",
    "small_image": "MemoryCnnPolicy",
    "dict": "MemoryMultiInputPolicy",
    "images": "MemoryMultiInputPolicy",
}


class MaskedEnv(RandomEnv):
    """A ``RandomEnv`` in which random actions are legal at every step; an illegal one is an error."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self._draw()
        return obs, info

    def _draw(self):
        counts = {"Discrete": lambda s: [s.n], "MultiDiscrete": lambda s: s.nvec, "MultiBinary": lambda s: [2] * s.n}
        self.parts = []
        for count in counts[type(self.action_space).__name__](self.action_space):
            legal = self.np_random.random(count) < 0.5
            legal[self.np_random.integers(count)] = True
            self.parts.append(legal)

    def action_masks(self):
        return np.concatenate(self.parts)

    def step(self, action):
        for legal, choice in zip(self.parts, np.ravel(action), strict=True):
            assert legal[int(choice)], (action, self.parts)
        self._draw()
        return super().step(action)


class DoorsEnv(gym.Env):
    """A cue, three locked doors, and a question.

    The first observation shows the cue, 0 or 1. At each door one of 16 actions, drawn anew and not shown, is legal; any
    other ends the episode. At the question the actions 0 and 1 are legal, and the cue's pays 1.

    With masks and memory the best return is 1. With masks alone it is 0.5, a guess. Without masks it is at most
    16 ** -3, since nothing that is observed tells the legal actions.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 -- as in Gymnasium
    doors, actions = 3, 16

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space, self.action_space = spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(self.actions)

    def _observation(self):
        obs = np.zeros(3, np.float32)
        if self.t == 0:
            obs[self.cue] = 1
        obs[2] = self.t == self.doors
        self.legal = {0, 1} if self.t == self.doors else {int(self.np_random.integers(self.actions))}
        return obs

    def render(self):
        return f"step {self.t}, legal: {sorted(self.legal)}"

    def get_state(self):
        return {"t": self.t, "cue": self.cue, "legal": set(self.legal), "random": self.np_random.bit_generator.state}

    def set_state(self, state):
        self.t, self.cue, self.legal = state["t"], state["cue"], set(state["legal"])
        self.np_random.bit_generator.state = state["random"]

    def action_masks(self):
        return np.isin(np.arange(self.actions), list(self.legal))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(2))
        return self._observation(), {}

    def step(self, action):
        ended = self.t == self.doors or int(action) not in self.legal
        reward = float(self.t == self.doors and action == self.cue)
        self.t += 1
        return self._observation(), reward, ended, False, {}
