"""Small agents for the tests of MemoryPPO and MemoryA2C."""

from stable_baselines3.common.vec_env import DummyVecEnv

from fwagents.cores import CORES
from fwagents.sb3 import MemoryA2C, MemoryPPO

from .tiny_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, RandomEnv

ALGORITHMS = [MemoryPPO, MemoryA2C]
CRITICS = ["shared", "detached", "separate", "none"]
MEMORIES = [{"core": core} for core in CORES] + [
    {"core": "fast_weights", "core_kwargs": {"inner_steps": inner_steps}} for inner_steps in (0, "adaptive")
]


def make(algorithm=MemoryPPO, obs="vector", action="discrete", n_envs=3, env=None, **kwargs):
    make_env = env or (lambda: RandomEnv(OBSERVATION_SPACES[obs], ACTION_SPACES[action]))
    venv = DummyVecEnv([make_env] * n_envs)
    venv.seed(0)
    policy_kwargs = {"hidden_size": 8, **kwargs.pop("policy_kwargs", {})}
    kwargs = {"n_steps": 12, "seed": 0, "device": "cpu", **kwargs}
    return algorithm(POLICIES[obs], venv, policy_kwargs=policy_kwargs, **kwargs)


def weights(model):
    return {name: p.detach().clone() for name, p in model.policy.named_parameters()}


class Endless(RandomEnv):
    """An environment that never ends, so each environment of a batch is one sequence."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info
