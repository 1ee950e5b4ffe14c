"""Agents with action masks, exported."""

import numpy as np
import pytest
from torch import nn

from fwagents.export import export_onnx, load_policy, save_policy
from fwagents.export.check import OnnxPlayer, compare
from fwagents.sb3 import ActionMasks, MemoryPPO

from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, MaskedEnv


@pytest.mark.parametrize("action", ["discrete", "multi_discrete", "multi_binary"])
def test_masks_go_in_and_illegal_actions_do_not_come_out(action, tmp_path):
    env = ActionMasks(MaskedEnv(OBSERVATION_SPACES["vector"], ACTION_SPACES[action]))
    model = MemoryPPO("MaskableMemoryPolicy", env, n_steps=8, seed=0, policy_kwargs={"core": "gru", "hidden_size": 8})
    nn.init.normal_(model.policy.action_net.weight)
    paths = tmp_path / "step.onnx", tmp_path / "sequence.onnx"
    export_onnx(model.policy, *paths)
    for found in compare(model, *paths, env, episodes=8):
        assert found.steps > 10
        assert found.actions == 1
        assert found.values < 1e-5
        assert found.probabilities < 1e-4
    step = OnnxPlayer(paths[0])
    assert {"observation.observation", "observation.action_masks", "start"} <= set(step.shapes)

    save_policy(model.policy, tmp_path / "agent")
    agent = load_policy(tmp_path / "agent")
    for seed in range(4):
        obs, _ = env.reset(seed=seed)
        expected, _ = model.predict(obs, deterministic=True)
        beside, _ = agent.predict(obs["observation"], deterministic=True, action_masks=obs["action_masks"])
        batch = {key: np.asarray(part)[None] for key, part in obs.items()}
        found, _ = step(batch, np.array([True]), step.empty(1))
        for played in (agent.predict(obs, deterministic=True)[0], beside, found["action"][0]):
            np.testing.assert_array_equal(played, expected)
