"""What tests over all batched environments have to know of each."""

import functools

import gymnasium

from fwagents.envs import ENVIRONMENTS, SUITE

BATCHED = [name for name, environment in ENVIRONMENTS.items() if environment.vector_entry_point]

# An option of reset, and a value other than chance's that suits every environment of a batch.
OPTION = {name: {"ball": 2} for name in BATCHED} | {
    "TMaze-v0": {"goal": 1},
    "KeyValueRecall-v0": {"values": 7},
    "RepeatPrevious-v0": {"sequence": 2},
    "MemoryChain-v0": {"context": 1},
}


def other_arguments(name):
    """Arguments that make an environment unlike the registered one, and its episodes shorter."""
    difficulty = SUITE.get(name)
    return {difficulty.parameter: difficulty.values[0]} if difficulty else {"size": 7, "paddle_width": 1}


@functools.cache
def actions(name):
    """How many actions there are."""
    return int(gymnasium.make(name).action_space.n)


@functools.cache
def longest(name):
    """How many steps an episode takes at most, which is also what it takes if the action is always 0."""
    env = gymnasium.make(name)
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.step(0)
        steps, over = steps + 1, terminated or truncated
    return steps
