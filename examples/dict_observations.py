"""Dict observations: a picture and a number, each encoded in its own way and fed to one memory.

    python examples/dict_observations.py

A picture with one bright quarter is shown first. Two steps later the number asks: 1, is the quarter on the right? 2, is
it at the bottom? It takes about a minute. Expect a return of 1.0; without a memory it is 0.5, a guess.
"""

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from fwagents.sb3 import MemoryPPO, make_vec_env


class WhichQuarter(gym.Env):
    """A picture, a blank, a question about the picture."""

    observation_space = spaces.Dict(
        {"picture": spaces.Box(0, 255, (8, 8, 1), np.uint8), "question": spaces.Discrete(3)}
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.right, self.bottom, self.question = self.np_random.integers(2, size=3)
        return self.observation(), {}

    def step(self, action):
        asked = self.time == 2
        answer = self.bottom if self.question else self.right
        self.time += 1
        return self.observation(), float(asked and action == answer), asked, False, {}

    def observation(self):
        picture = np.zeros((8, 8, 1), np.uint8)
        if self.time == 0:
            picture[4 * self.bottom :, 4 * self.right :][:4, :4] = 255
        return {"picture": picture, "question": np.int64(1 + self.question if self.time == 2 else 0)}


def main(total_timesteps: int = 40_000) -> float:
    """Train an agent on the game; return its mean return."""
    torch.set_num_threads(1)  # small agents are fastest on one
    env = make_vec_env(WhichQuarter, 64, seed=0)
    settings = {"n_steps": 3, "learning_rate": 1e-3, "gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.01, "vf_coef": 0.05}
    memory = {"hidden_size": 32, "critic_core": "shared"}
    agent = MemoryPPO("MemoryMultiInputPolicy", env, seed=0, policy_kwargs=memory, **settings).learn(total_timesteps)
    mean_return = float(evaluate_policy(agent, env, n_eval_episodes=400)[0])
    print(f"return {mean_return:.2f}, without a memory at most 0.5")
    return mean_return


if __name__ == "__main__":
    tyro.cli(main)
