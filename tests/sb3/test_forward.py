"""The forward pass against the modules of a policy, called one by one."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fwagents.sb3.forward import Forward, OverTime
from fwagents.sb3.policies import MemoryPolicy
from fwagents.sb3.states import MemoryStates

from .agents import CRITICS

T, B = 5, 3
BOX = spaces.Box(-1, 1, (4,), np.float32)
START = torch.tensor([[True, False, False], [False] * 3, [False, True, False], [False] * 3, [True, False, False]])


def made(critic, **kwargs):
    torch.manual_seed(0)
    kwargs |= {"core": "gru", "hidden_size": 8, "net_arch": {"pi": [6], "vf": [5]}}
    return MemoryPolicy(BOX, spaces.Discrete(3), lambda _: 0.0, critic_core=critic, **kwargs)


def noted(names):
    """Return a ``run`` that records the cores' names and returns zeros."""

    def run(name, features):
        names.append(name)
        return features.new_zeros(len(features), 8)

    return run


@pytest.mark.parametrize("own_encoders", [False, True])
@pytest.mark.parametrize("critic", CRITICS)
def test_it_is_the_modules_in_turn(critic, own_encoders):
    if own_encoders and critic in ("shared", "detached"):
        pytest.skip("they share the encoder too")
    policy = made(critic, share_features_extractor=not own_encoders)
    obs = torch.rand(T * B, 4)
    states = MemoryStates(policy.actor_core.initial_state(B), None)
    if critic == "separate":
        states = states._replace(critic=policy.critic_core.initial_state(B))
    run = OverTime(policy, states, START)
    forward = Forward(policy, obs, run)
    distribution, values = forward.heads()

    own = policy.vf_features_extractor(obs) if own_encoders else policy.features_extractor(obs)
    y, after = policy.actor_core(policy.pi_features_extractor(obs).view(T, B, -1), start=START)
    read, critic_after = y, None
    if critic == "separate":
        read, critic_after = policy.critic_core(own.view(T, B, -1), start=START)
    if critic == "none":
        read = policy.critic(own)
    logits = policy.action_net(policy.mlp_extractor.policy_net(y.reshape(T * B, 8)))
    expected = policy.value_net(policy.mlp_extractor.value_net(read.reshape(T * B, 8)))
    same = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(distribution.distribution.logits, logits.log_softmax(-1), **same)
    torch.testing.assert_close(forward.action_inputs(), logits, **same)
    torch.testing.assert_close(values, expected, **same)
    torch.testing.assert_close(forward.values(), expected, **same)
    torch.testing.assert_close(list(run.states.actor), list(after), **same)
    assert (run.states.critic is None) == (critic_after is None)
    if critic_after is not None:
        torch.testing.assert_close(list(run.states.critic), list(critic_after), **same)

    values.sum().backward()
    reached = any(weight.grad is not None for weight in policy.actor_core.parameters())
    assert reached == (critic == "shared"), "the value trains the actor's core where it is shared alone"


@pytest.mark.parametrize(
    ("critic", "ran"), [("shared", ["actor"]), ("detached", ["actor"]), ("separate", ["critic"]), ("none", [])]
)
def test_values_alone_run_no_core_that_they_do_not_need(critic, ran):
    policy, names = made(critic), []
    forward = Forward(policy, torch.rand(B, 4), noted(names))
    forward.values()
    forward.values()
    assert names == ran
    forward.latents()
    assert sorted(names) == list(policy.cores), "each once"


def test_prepared_observations_are_taken_as_they_are():
    image = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    policy = MemoryPolicy(image, spaces.Discrete(2), lambda _: 0.0, core="gru", hidden_size=8)
    obs = torch.randint(0, 256, (B, 3, 8, 8), dtype=torch.uint8)
    raw = Forward(policy, obs, noted([]))
    prepared = Forward(policy, obs.float() / 255, noted([]), prepared=True)
    torch.testing.assert_close(raw.features, prepared.features, rtol=0, atol=0)
    assert raw.features.abs().max() > 0
