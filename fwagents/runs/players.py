"""A trained agent and the environment that it plays in, from the folder of its run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from fwagents.export.normalization import Normalization
from fwagents.inspection.film import action_names_of
from fwagents.runs.algorithms import load_model
from fwagents.runs.environments import Environment
from fwagents.sb3.checkpoints import load_normalizer
from fwagents.sb3.policies import MemoryPolicy


class Player:
    """A trained agent, with an environment to play in.

    Args:
        config: content of the run's ``config.json``.
        model_path: the agent's file. Loading SB3's zip runs code in it: load only files that you trust.
        modes: render modes in order of preference; the first one that the environment supports is used. Without modes,
            nothing is drawn.

    Attributes:
        model: the agent.
        env: the environment.
        normalization: normalisation of the agent's observations; None if they are not normalised.
        action_names: names of the actions; None if the environment has none.

    Raises:
        ValueError: the environment supports none of the render modes.
    """

    def __init__(self, config: dict[str, Any], model_path: Path, modes: Sequence[str] = ()) -> None:
        args = config["args"]
        environment = Environment.of(args, config["env_kwargs"])
        torch.set_num_threads(1)  # one step of one environment is too little work for more threads
        self.model = load_model(args["algo"], model_path)
        mode = environment.render_mode(modes)
        if modes and mode is None:
            known = ", ".join(environment.render_modes()) or "nothing"
            raise ValueError(f"{environment.id} can be drawn as {known}, expected {' or '.join(modes)}")
        self.env = environment.one(render_mode=mode)
        normalizer = load_normalizer(model_path, DummyVecEnv([lambda: self.env]))
        self.normalization = Normalization.of(normalizer) if isinstance(normalizer, VecNormalize) else None
        self.action_names = action_names_of(self.env)

    @property
    def policy(self) -> MemoryPolicy:
        """The agent's policy."""
        policy = self.model.policy
        assert isinstance(policy, MemoryPolicy)
        return policy
