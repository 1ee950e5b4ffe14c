"""Stock RecurrentPPO: sb3-contrib's own algorithm with a memory of the package in place of its LSTM.

    python examples/recurrent_ppo.py

Importing `fwagents.sb3` makes the policies known by name; everything else is sb3-contrib's. The agent has to remember
one bit for five steps (`MemoryChain-v0`). It takes about two minutes. Expect a return of 1.0; a guess has 0. MemoryPPO
trains the same policy faster, since it needs no padding.
"""

import torch
import tyro
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.evaluation import evaluate_policy

from fwagents.sb3 import make_vec_env


def main(total_timesteps: int = 30_000) -> tuple[RecurrentPPO, float]:
    """Train an agent; return it and its mean return."""
    torch.set_num_threads(1)  # small agents are fastest on one
    env = make_vec_env("MemoryChain-v0", 32, seed=0, env_kwargs={"length": 5})
    agent = RecurrentPPO(
        "MemoryPolicy",
        env,
        n_steps=6,  # one episode
        batch_size=192,
        n_epochs=4,
        learning_rate=1e-3,
        gamma=1.0,
        gae_lambda=1.0,
        ent_coef=0.03,
        seed=0,
        policy_kwargs={"core": "rotary_fast_weights", "hidden_size": 32, "critic_core": "shared"},
    ).learn(total_timesteps)
    mean_return = float(evaluate_policy(agent, env, n_eval_episodes=200)[0])
    print(f"{type(agent).__module__}.{type(agent).__name__}: return {mean_return:.2f}")

    obs, state, start = env.reset(), None, [True] * env.num_envs
    for _ in range(6):  # an agent acts in a loop of your own like this: its memory goes in and comes out
        actions, state = agent.predict(obs, state, start, deterministic=True)
        obs, _, start, _ = env.step(actions)
    return agent, mean_return


if __name__ == "__main__":
    tyro.cli(main)
