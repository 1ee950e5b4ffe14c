"""Ray RLlib: env runners play in processes of their own, here or on a cluster, and RLlib's PPO learns a memory.

    python examples/ray_rllib.py

Install `fwagents[ray]` in a virtual environment of its own. The agent has to remember one bit for five steps
(`MemoryChain-v0`). It takes about two minutes. Expect a return of 1.0; a guess has 0. At the end the weights are copied
to a MemoryPPO agent, which can be evaluated, saved and exported as any other.
"""

import ray
import torch
import tyro
from ray.rllib.algorithms.ppo import PPOConfig
from stable_baselines3.common.evaluation import evaluate_policy

from fwagents.rllib import to_sb3, with_memory
from fwagents.sb3 import MemoryPPO

ENV, LENGTH = "MemoryChain-v0", 5
MEMORY = {"core": "rotary_fast_weights", "hidden_size": 32, "critic_core": "shared"}
ROLLOUT = 32 * (LENGTH + 1)  # one episode of every environment


def main(total_timesteps: int = 40_000) -> tuple[dict, MemoryPPO, float]:
    """Train on RLlib; return the module's weights, the SB3 agent that has them, and its mean return."""
    torch.set_num_threads(1)  # small agents are fastest on one
    config = (
        PPOConfig()
        .environment(f"fwagents.envs:{ENV}", env_config={"length": LENGTH})
        .env_runners(num_env_runners=1, num_envs_per_env_runner=32, gym_env_vectorize_mode="vector_entry_point")
        .training(lr=1e-3, gamma=1.0, lambda_=1.0, entropy_coeff=0.03, vf_loss_coeff=0.05, num_epochs=4)
        .training(train_batch_size_per_learner=ROLLOUT, minibatch_size=ROLLOUT, use_kl_loss=False, grad_clip=0.5)
        .debugging(seed=0)
    )
    algorithm = with_memory(config, chunk_length=LENGTH + 2, **MEMORY).build_algo()
    steps = 0
    while steps < total_timesteps:
        result = algorithm.train()["env_runners"]
        steps = result["num_env_steps_sampled_lifetime"]
    print(f"RLlib: {steps:.0f} steps, return of the last episodes {result['episode_return_mean']:.2f}")

    agent = MemoryPPO.for_env(ENV, env_kwargs={"length": LENGTH}, policy_kwargs=MEMORY)
    weights = algorithm.learner_group.get_weights()["default_policy"]
    algorithm.stop()
    ray.shutdown()
    to_sb3(weights, agent)
    mean_return = float(evaluate_policy(agent, agent.get_env(), n_eval_episodes=200)[0])
    print(f"MemoryPPO with its weights: return {mean_return:.2f}")
    return weights, agent, mean_return


if __name__ == "__main__":
    tyro.cli(main)
