"""Agents with the settings that train well on an environment, as ``fwagents agent --env ID`` makes them."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from fwagents.sb3.masks import VecActionMasks
from fwagents.sb3.normalizing import normalized
from fwagents.sb3.registry import policy_for
from fwagents.sb3.vec_env import make_vec_env
from fwagents.settings import AGENT, defaults_for

AgentT = TypeVar("AgentT", bound=OnPolicyAlgorithm)
OF_POLICY = ("hidden_size", "critic_core")
# Settings that this module applies itself; the algorithm's constructor takes none of them.
TRANSLATED = (*OF_POLICY, "num_envs", "observe", "mask_actions", "normalize", "lr_schedule", "core_kwargs")


def agent_for(
    algorithm: type[AgentT],
    env_id: str,
    core: str,
    seed: int | None,
    env_kwargs: Mapping[str, Any] | None,
    policy_kwargs: Mapping[str, Any] | None,
    given: Mapping[str, Any],
) -> AgentT:
    """Return an untrained agent with its own environments; see ``MemoryRollouts.for_env``."""
    env_kwargs = dict(env_kwargs or {})
    found = {**AGENT, **defaults_for(env_id, core, env_kwargs)}
    setting = {**found, **given}
    observe = setting.get("observe", ())
    env: VecEnv = make_vec_env(env_id, setting["num_envs"], seed=seed, observe=observe, env_kwargs=env_kwargs)
    if setting.get("mask_actions", False):
        env = VecActionMasks(env)
    policy = policy_for(env.observation_space)
    if setting["normalize"]:
        env = normalized(env, (), gamma=setting["gamma"])
    of_policy = {name: setting[name] for name in OF_POLICY} | {"core_kwargs": setting.get("core_kwargs", {})}
    # The tables also hold budgets and other algorithms' options. From them, a constructor gets only the options that it
    # has. It gets every option of the caller, so that it refuses a wrong name.
    known = _arguments(algorithm)
    options = {
        name: value for name, value in setting.items() if name not in TRANSLATED and (name in given or name in known)
    }
    return algorithm(
        policy,
        env,
        **{
            **options,
            "learning_rate": scheduled(setting["learning_rate"], setting["lr_schedule"]),
            "seed": seed,
            "policy_kwargs": {
                "core": core,
                **of_policy,
                "core_kwargs": setting.get("core_kwargs", {}),
                **(policy_kwargs or {}),
            },
        },
    )


def scheduled(rate: float | Schedule, schedule: str) -> float | Schedule:
    """Return a learning rate in the form that SB3's algorithms take.

    Args:
        rate: learning rate at the start; a function of the remaining progress is returned unchanged.
        schedule: "constant", or "linear", which falls to a tenth of the rate over the run.

    Raises:
        ValueError: the schedule is neither of them.
    """
    if schedule not in ("linear", "constant"):
        raise ValueError(f"lr_schedule is {schedule!r}, expected 'linear' or 'constant'")
    return rate if schedule == "constant" or callable(rate) else LinearSchedule(rate, 0.1 * rate, 1.0)


def _arguments(algorithm: type[OnPolicyAlgorithm]) -> set[str]:
    """Return the names of the arguments of the constructor and of its base classes' constructors."""
    makers = [vars(base)["__init__"] for base in algorithm.__mro__ if "__init__" in vars(base)]
    return {name for make in makers[:-1] for name in inspect.signature(make).parameters}  # the last is object's
