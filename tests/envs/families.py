"""Facts about every batched environment that tests over all of them need."""

import functools

import gymnasium

from fwagents.envs import ENVIRONMENTS, SUITE

BATCHED = [name for name, environment in ENVIRONMENTS.items() if environment.vector_entry_point]

# An option of reset, and a value of it that is valid for every environment of a batch.
OPTION = {name: {"ball": 2} for name in BATCHED} | {
    "TMaze-v0": {"goal": 1},
    "KeyValueRecall-v0": {"values": 7},
    "RepeatPrevious-v0": {"sequence": 2},
    "MemoryChain-v0": {"context": 1},
}


def other_arguments(name):
    """Return arguments that differ from the registered ones and make episodes shorter."""
    difficulty = SUITE.get(name)
    return {difficulty.parameter: difficulty.values[0]} if difficulty else {"size": 7, "paddle_width": 1}


@functools.cache
def actions(name):
    """Return the number of actions."""
    return int(gymnasium.make(name).action_space.n)


@functools.cache
def longest(name):
    """Return the largest length of an episode, which is also its length if the action is always 0."""
    env = gymnasium.make(name)
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.step(0)
        steps, over = steps + 1, terminated or truncated
    return steps
