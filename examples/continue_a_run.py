"""Continuing a run: save an agent, load it in another process or on another day, and learn on, bit for bit.

    python examples/continue_a_run.py

SB3's `save` keeps weights, optimiser and counters. To continue exactly, a checkpoint of the package also keeps the
environments, the memory and the random generators. Two runs are made, one unbroken and one stopped at the half, in less
than a minute. Expect a largest difference of their weights of exactly 0. The environment needs `get_state()` and
`set_state(state)`, which the package's have, and the learning rate is constant, as it does not know of the second half.
`fwagents agent` writes such checkpoints by itself, and `fwagents agent --resume RUN_DIR` continues from them.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import tyro
from stable_baselines3.common.logger import Logger

from fwagents.sb3 import MemoryPPO
from fwagents.sb3.checkpoints import capture, read_resume, restore, save_model


def new_agent(seed: int) -> MemoryPPO:
    """Return an untrained agent."""
    options = {"env_kwargs": {"size": 8}, "num_envs": 16, "hidden_size": 32, "lr_schedule": "constant"}
    return MemoryPPO.for_env("PartialCatch-v0", seed=seed, **options)


def learn_and_save(path: Path, total_timesteps: int) -> None:
    """Train an agent and write a checkpoint."""
    agent = new_agent(seed=0).learn(total_timesteps)
    save_model(agent, path, capture(agent, callbacks=[]))


def load_and_learn_on(path: Path, total_timesteps: int) -> MemoryPPO:
    """Continue from a checkpoint."""
    env = new_agent(seed=1).get_env()  # made with the same arguments; the checkpoint replaces its seed
    agent = MemoryPPO.load(path, env=env)
    agent.set_logger(Logger(folder=None, output_formats=[]))
    assert restore(agent, [], read_resume(path)), "the environment has no get_state and set_state"
    return agent.learn(total_timesteps, reset_num_timesteps=False)


def main(total_timesteps: int = 60_000) -> tuple[MemoryPPO, MemoryPPO]:
    """Return the agent of an unbroken run, and the agent of a run that was stopped at the half."""
    torch.set_num_threads(1)  # small agents are fastest on one
    rollout = 16 * 7  # a checkpoint is written between two rollouts
    half = -(-total_timesteps // (2 * rollout)) * rollout
    unbroken = new_agent(seed=0).learn(2 * half)
    with TemporaryDirectory() as folder:
        learn_and_save(Path(folder) / "half.zip", half)
        continued = load_and_learn_on(Path(folder) / "half.zip", half)
    pairs = zip(unbroken.policy.parameters(), continued.policy.parameters(), strict=True)
    print(f"largest difference of a weight: {max((a - b).abs().max().item() for a, b in pairs)}")
    return unbroken, continued


if __name__ == "__main__":
    tyro.cli(main)
