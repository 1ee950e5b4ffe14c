"""examples/ray_rllib.py: RLlib counts the steps, and the agent at the end has RLlib's weights."""

import importlib

import numpy as np
import pytest

pytest.importorskip("ray.rllib")


def test_the_agent_has_the_weights_of_the_module():
    weights, agent, mean_return = importlib.import_module("examples.ray_rllib").main(400)
    own = agent.policy.state_dict()
    assert {f"policy.{name}" for name in own} == set(weights)
    for name, value in own.items():
        np.testing.assert_array_equal(value.numpy(), np.asarray(weights[f"policy.{name}"]))
    assert -1 <= mean_return <= 1
