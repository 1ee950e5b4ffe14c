"""A trained agent and the environment that it plays in, from the folder of its run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from algorithms import load_model
from environments import Environment, wrapper
from fwagents.sb3.checkpoints import load_normalizer


class Player:
    """A trained agent, with an environment drawn in the first of some ways that it can be drawn in.

    Args:
        config: of the run.
        model_path: the agent. Loading SB3's zip runs code that it holds: load only what you trust.
        modes: render modes, the best first.

    Attributes:
        model: the agent.
        env: the environment.
        normalize_obs: what the agent's observations go through; None where it sees them as they are.
        action_names: None where the environment has none.

    Raises:
        ValueError: the environment can be drawn in none of those ways.
    """

    def __init__(self, config: dict[str, Any], model_path: Path, modes: Sequence[str]) -> None:
        args = config["args"]
        environment = Environment(args["env"], config["env_kwargs"], tuple(map(wrapper, args["wrappers"])))
        self.model = load_model(args["algo"], model_path)
        drawn = environment.render_modes()
        mode = next((mode for mode in modes if mode in drawn), None)
        if mode is None:
            known = ", ".join(drawn) or "nothing"
            raise ValueError(f"{environment.id} can be drawn as {known}, expected {' or '.join(modes)}")
        self.env = environment.one(render_mode=mode)
        normalizer = load_normalizer(model_path, DummyVecEnv([lambda: self.env]))
        self.normalize_obs: Callable[[Any], Any] | None = (
            normalizer.normalize_obs if isinstance(normalizer, VecNormalize) else None
        )
        meanings = getattr(self.env.unwrapped, "get_action_meanings", None)
        self.action_names: Sequence[str] | None = None if meanings is None else meanings()
