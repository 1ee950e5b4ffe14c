"""What trains well, by environment, as data. Options on the command line win over these; these win over agent.py's."""

from typing import Any

# The reward comes with the last frame and says nothing about which step earned it, so neither discount nor bootstrap
# from a value that is still wrong: gamma and lambda 1. Rollouts of one episode: the memory is empty where each begins,
# so no gradient is cut and no state goes stale. A small value loss keeps it from shaping the shared memory.
_CATCH: dict[str, Any] = {
    "learning_rate": 1e-3,
    "n_epochs": 1,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "vf_coef": 0.05,
    "critic_core": "shared",
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "PartialCatch-v0": {**_CATCH, "total_timesteps": 1_500_000, "n_steps": 15},
    "PartialCatchLarge-v0": {**_CATCH, "learning_rate": 5e-4, "total_timesteps": 4_000_000, "n_steps": 23},
    "Catch-v0": {**_CATCH, "total_timesteps": 500_000, "n_steps": 15},
}


def defaults_for(env: str) -> dict[str, Any]:
    """The table's row for an environment id, with or without the module in front of it; empty if there is none."""
    return dict(DEFAULTS.get(env.rpartition(":")[2], {}))
