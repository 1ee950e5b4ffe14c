"""A memory of your own: give its state's shapes and one step, and every agent can have it by name.

    python examples/own_core.py

The memory is a window of the last inputs. In `RepeatPrevious-v0` the agent says which symbol it saw two steps ago. It
takes about a minute. Expect a return near 1.0, the best, for a window of three, and about -0.5, a guess, for two.
"""

from typing import NamedTuple

import torch
import tyro
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor, nn

from fwagents.cores import CORES, MemoryCore
from fwagents.sb3 import MemoryPPO


class WindowState(NamedTuple):
    """The last inputs, the newest last: ``last [B, length, D]``."""

    last: Tensor


class Window(MemoryCore[WindowState]):
    """y(t) = tanh[C (x(t - length + 1), ..., x(t)) + b]; the inputs before an episode are zeros."""

    state_type = WindowState

    def __init__(self, input_size: int, hidden_size: int, *, length: int = 3) -> None:
        super().__init__(input_size, hidden_size)
        self.length, self.project = length, nn.Linear(length * input_size, hidden_size)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.length, self.input_size),)  # of each leaf of the state, for one row

    def cell(self, x: Tensor, state: WindowState) -> tuple[Tensor, WindowState]:
        last = torch.cat([state.last[:, 1:], x[:, None]], dim=1)  # x [B, D]
        return self.project(last.flatten(1)).tanh(), WindowState(last)


def main(total_timesteps: int = 100_000) -> dict[int, float]:
    """Train an agent with each of two windows; return their mean returns."""
    torch.set_num_threads(1)  # small agents are fastest on one
    CORES["window"] = Window
    returns = {}
    for length in (3, 2):
        memory = {"core": "window", "hidden_size": 64, "core_kwargs": {"length": length}}
        agent = MemoryPPO.for_env("RepeatPrevious-v0", env_kwargs={"delay": 2}, num_envs=32, **memory)
        agent.learn(total_timesteps)
        returns[length] = float(evaluate_policy(agent, agent.get_env(), n_eval_episodes=200)[0])
        print(f"window of {length}: return {returns[length]:.2f}")
    return returns


if __name__ == "__main__":
    tyro.cli(main)
