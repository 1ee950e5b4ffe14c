"""Settings that train well on each environment (``fwagents.settings``), under RL Zoo's names."""

from collections.abc import Mapping
from typing import Any

from fwagents.settings import AGENT_CORE, DEFAULTS, defaults_for

GENERAL: dict[str, Any] = {"total_timesteps": 500_000, "num_envs": 32, "n_steps": 32, "learning_rate": 1e-3}
ATARI: dict[str, Any] = {
    **{"total_timesteps": 10_000_000, "num_envs": 8, "n_steps": 128, "learning_rate": 2.5e-4, "ent_coef": 0.01},
    **{"hidden_size": 256, "critic_core": "shared", "gae_lambda": 0.95, "gamma": 0.99},
}
# Options of ``fwagents agent``: renamed in RL Zoo, options of the policy, and options with the same name.
RENAMED = {"num_envs": "n_envs", "total_timesteps": "n_timesteps"}
OF_POLICY = ("hidden_size", "critic_core")
AS_THEY_ARE = (
    *("n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "normalize", "policy"),
    *("env_wrapper",),
)
OF_PPO = ("n_epochs", "clip_range", "batch_size")
OF_MEMORY_PPO = (*OF_PPO, "chunk_length")
OPTIONS = {"ppo_lstm": OF_PPO, "memory_ppo": OF_MEMORY_PPO, "memory_a2c": ("chunk_length",)}


class Settings(dict[str, Any]):
    """One environment's settings, which the user's settings override.

    RL Zoo overrides them by ``update``. Options of ``policy_kwargs`` that the user does not give stay, except that
    ``core_kwargs`` are dropped if the user gives another core.
    """

    def update(self, given: Any) -> None:  # type: ignore[override]  # as RL Zoo calls it
        """Replace settings by the given ones; ``policy_kwargs`` are merged option by option."""
        given = dict(given)
        if isinstance(given.get("policy_kwargs"), dict):
            given["policy_kwargs"] = _laid_over(self["policy_kwargs"], given["policy_kwargs"])
        super().update(given)


def _laid_over(ours: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    other_core = given.get("core", ours["core"]) != ours["core"]
    return {**{name: value for name, value in ours.items() if not (other_core and name == "core_kwargs")}, **given}


def hyperparams_for(algo: str, env_kwargs: Mapping[str, Any] | None = None) -> dict[str, Settings]:
    """Return settings by environment id, plus "atari" and "default" for all others, as RL Zoo reads them.

    Args:
        algo: "ppo_lstm" (sb3-contrib's RecurrentPPO), "memory_ppo" or "memory_a2c".
        env_kwargs: arguments of the training environment; missing arguments have their registered values.
    """
    found = {env: translated(algo, {**GENERAL, **defaults_for(env, AGENT_CORE, env_kwargs)}) for env in DEFAULTS}
    general = {"policy": "fwagents.zoo.policies.SuitedPolicy"}
    atari = {
        "policy": "fwagents.sb3.MemoryCnnPolicy",
        "env_wrapper": [{"stable_baselines3.common.atari_wrappers.AtariWrapper": {"terminal_on_life_loss": False}}],
    }
    return {**found, "default": translated(algo, {**GENERAL, **general}), "atari": translated(algo, {**ATARI, **atari})}


def translated(algo: str, setting: dict[str, Any]) -> Settings:
    """Translate one environment's options of ``fwagents agent`` to RL Zoo's."""
    taken = {name: setting[name] for name in (*AS_THEY_ARE, *OPTIONS[algo]) if name in setting}
    if algo == "ppo_lstm":
        # RecurrentPPO's default batch is 128 steps for any rollout; ours is the whole rollout.
        taken.setdefault("batch_size", setting["n_steps"] * setting["num_envs"])
    policy = {name: setting[name] for name in OF_POLICY if name in setting}
    core = setting.get("core_kwargs", {})
    return Settings(
        {
            "policy": "fwagents.sb3.MemoryPolicy",
            **taken,
            **{new: setting[old] for old, new in RENAMED.items()},
            "learning_rate": f"lin_{setting['learning_rate']}",
            "policy_kwargs": {"core": AGENT_CORE, **policy, **({"core_kwargs": core} if core else {})},
        }
    )
