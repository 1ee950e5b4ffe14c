"""What trains well, by environment, as data. Options on the command line win over these; these win over agent.py's."""

from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = {
    # Rollouts of one episode: the memory is empty where each begins, so no gradient is cut and no state goes stale.
    "PartialCatch-v0": {"n_steps": 15, "batch_size": 480, "n_epochs": 1, "ent_coef": 0.0},
    "PartialCatchLarge-v0": {"total_timesteps": 2_500_000, "n_steps": 23, "batch_size": 736, "n_epochs": 1},
    "Catch-v0": {"total_timesteps": 300_000, "n_steps": 15, "batch_size": 480, "n_epochs": 1},
}


def defaults_for(env: str) -> dict[str, Any]:
    """The table's row for an environment id, with or without the module in front of it; empty if there is none."""
    return dict(DEFAULTS.get(env.rpartition(":")[2], {}))
