"""Agents of every core, to be exported."""

import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from fwagents.export import Normalization
from fwagents.sb3 import MemoryPPO

from .sb3.tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv

SETTLING = {"tolerance": 0.005, "max_inner_steps": 5, "fast_lr": 0.5}  # rows settle at different steps
# Every core, and with the cores every kind of observation, action and critic; fast weights with every kind of read.
AGENTS = {
    "fast_weights": ("fast_weights", "vector", "discrete", "separate", {"inner_steps": 2}),
    "adaptive": ("fast_weights", "vector", "discrete", "shared", {"inner_steps": "adaptive", **SETTLING}),
    "no_reads": ("fast_weights", "vector", "discrete", "separate", {"inner_steps": 0}),
    "irnn": ("irnn", "discrete", "multi_binary", "detached", {}),
    "lstm": ("lstm", "dict", "multi_discrete", "none", {}),
    "gru": ("gru", "image", "discrete", "shared", {}),
    "associative_lstm": ("associative_lstm", "vector", "box", "separate", {"num_heads": 2}),
    "sum_rule": ("sum_rule", "vector", "discrete", "shared", {"num_heads": 2}),
    "delta_net": ("delta_net", "vector", "box", "separate", {}),
    "gated_delta_net": ("gated_delta_net", "vector", "discrete", "none", {"num_heads": 2}),
    "rotary_fast_weights": ("rotary_fast_weights", "vector", "discrete", "separate", {"num_heads": 2}),
    "hebbian": ("hebbian", "vector", "discrete", "detached", {}),
    "ffm": ("ffm", "vector", "discrete", "separate", {"memory_size": 4, "context_size": 2}),
    "none": ("none", "vector", "discrete", "separate", {}),
}


def agent(name, **policy_kwargs):
    core, obs, action, critic, core_kwargs = AGENTS[name]
    env = RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES[action])
    options = {"core": core, "critic_core": critic, "hidden_size": 8, "core_kwargs": core_kwargs, **policy_kwargs}
    model = MemoryPPO(POLICIES[obs], env, n_steps=8, seed=0, policy_kwargs=options)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(30)  # so that actions and log-probabilities differ
    return model, env


def normalization(env):
    normalizer = VecNormalize(DummyVecEnv([lambda: env]))
    normalizer.obs_rms.mean, normalizer.obs_rms.var = np.linspace(-1, 1, 5), np.linspace(0.1, 2, 5)
    return normalizer, Normalization.of(normalizer)
