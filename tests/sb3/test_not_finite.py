"""Numbers that are not finite stop training, and the error names them."""

import numpy as np
import pytest
import torch

from fwagents.sb3.faults import EnvironmentFault

from .agents import ALGORITHMS, make, weights
from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, RandomEnv


class Spoiled(RandomEnv):
    """An environment that returns NaN at the fourth step."""

    def __init__(self, what):
        super().__init__(OBSERVATION_SPACES["vector"], ACTION_SPACES["discrete"])
        self.what, self.steps = what, 0

    def step(self, action):
        self.steps += 1
        obs, reward, *rest = super().step(action)
        if self.steps == 4:
            obs, reward = (np.full_like(obs, np.nan), reward) if self.what == "observation" else (obs, float("inf"))
        return obs, reward, *rest


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("observation", "observation of environment 0 is nan at step 4 of the rollout"),
        ("reward", "reward of environment 0 is inf at step 3 of the rollout"),
    ],
)
def test_what_is_not_finite_is_named(algorithm, what, message):
    with pytest.raises(EnvironmentFault, match=message):
        make(algorithm, env=lambda: Spoiled(what)).learn(36)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(algorithm):
    model = make(algorithm, learning_rate=1e-3)
    model.learn(36)
    before = weights(model)
    model.rollout_buffer.returns[0, 0] = np.inf
    with pytest.raises(FloatingPointError, match="value_loss is inf after 36 steps"):
        model.train()
    torch.testing.assert_close(weights(model), before, rtol=0, atol=0)
