"""Action masks: the environment tells which actions are legal, and the agent takes no other.

    python examples/action_masks.py

Three cards are dealt one by one, then the agent plays them in the order in which they were dealt. While cards are dealt
only "pass" is legal; then the cards in hand are. It takes about a minute. Expect a return of 1.0 and no illegal action;
without a memory the return is about a third.
"""

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from fwagents.sb3 import MemoryPPO, VecActionMasks, make_vec_env

CARDS = 3  # action 0 is "pass", action 1 + card plays a card
SETTINGS = {"learning_rate": 3e-3, "gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.01, "vf_coef": 0.05}


class PlayInOrder(gym.Env):
    """Each card in its place is worth a third; an illegal action is an error. The card that is dealt is observed."""

    observation_space, action_space = spaces.Box(0, 1, (CARDS,), np.float32), spaces.Discrete(1 + CARDS)

    def action_masks(self):
        return np.isin(np.arange(1 + CARDS), [0] if self.time < CARDS else [1 + card for card in self.hand])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.order, self.hand = 0, self.np_random.permutation(CARDS), set(range(CARDS))
        return self.observation(), {}

    def step(self, action):
        assert self.action_masks()[action], f"action is {action}, expected a legal one of {self.action_masks()}"
        self.hand.discard(int(action) - 1)
        right = self.time >= CARDS and action - 1 == self.order[self.time - CARDS]
        self.time += 1
        return self.observation(), float(right) / CARDS, self.time == 2 * CARDS, False, {}

    def observation(self):
        return (np.arange(CARDS) == self.order[self.time % CARDS]) * np.float32(self.time < CARDS)


def main(total_timesteps: int = 40_000) -> float:
    """Train an agent on the game; return its mean return."""
    torch.set_num_threads(1)  # small agents are fastest on one
    env = VecActionMasks(make_vec_env(PlayInOrder, 32, seed=0))
    memory = {"hidden_size": 32, "critic_core": "shared"}
    agent = MemoryPPO("MaskableMemoryPolicy", env, n_steps=2 * CARDS, seed=0, policy_kwargs=memory, **SETTINGS)
    mean_return = float(evaluate_policy(agent.learn(total_timesteps), env, n_eval_episodes=400)[0])
    print(f"return {mean_return:.2f}, and no action was illegal")
    return mean_return


if __name__ == "__main__":
    tyro.cli(main)
