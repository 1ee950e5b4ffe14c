"""A trained agent and the environment that it plays in, from the folder of its run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from algorithms import load_model
from fwagents.export.normalization import Normalization
from fwagents.sb3.checkpoints import load_normalizer
from fwagents.sb3.policies import MemoryPolicy


class Player:
    """A trained agent, with an environment to play in.

    Args:
        config: of the run.
        model_path: the agent. Loading SB3's zip runs code that it holds: load only what you trust.
        modes: how the environment is to be drawn, the first that it can be; none for not at all.

    Attributes:
        model: the agent.
        env: the environment.
        normalization: what the agent's observations go through; None where it sees them as they are.
        action_names: None where the environment has none.

    Raises:
        ValueError: the environment can be drawn in none of those ways.
    """

    def __init__(self, config: dict[str, Any], model_path: Path, modes: Sequence[str] = ()) -> None:
        name, kwargs = config["args"]["env"], config["env_kwargs"]
        self.model = load_model(config["args"]["algo"], model_path)
        mode = None
        if modes:
            drawn = gym.make(name, **kwargs).metadata.get("render_modes", [])
            mode = next((mode for mode in modes if mode in drawn), None)
            if mode is None:
                known = ", ".join(drawn) or "nothing"
                raise ValueError(f"{name} can be drawn as {known}, expected {' or '.join(modes)}")
        self.env = gym.make(name, render_mode=mode, **kwargs) if modes else gym.make(name, **kwargs)
        normalizer = load_normalizer(model_path, DummyVecEnv([lambda: self.env]))
        self.normalization = Normalization.of(normalizer) if isinstance(normalizer, VecNormalize) else None
        meanings = getattr(self.env.unwrapped, "get_action_meanings", None)
        self.action_names: Sequence[str] | None = None if meanings is None else meanings()

    @property
    def policy(self) -> MemoryPolicy:
        """The agent's policy."""
        policy = self.model.policy
        assert isinstance(policy, MemoryPolicy)
        return policy
