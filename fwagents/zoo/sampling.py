"""Optuna samplers for our algorithms' options, in RL Zoo's form: a function that samples and one that converts."""

from typing import Any

CORES = ("rotary_fast_weights", "fast_weights", "lstm", "gru")


def sample_memory_ppo_params(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Any:
    """Sample options of MemoryPPO, for ``rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER``.

    Args:
        trial: Optuna's trial.
        n_actions: not used.
        n_envs: not used.
        additional_args: not used.
    """
    params = _common(trial)
    params["clip_range"] = trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3, 0.4])
    params["n_epochs"] = trial.suggest_categorical("n_epochs", [1, 2, 4, 8])
    params["refresh_states"] = trial.suggest_categorical("refresh_states", [False, True])
    return {**convert_params(params), "batch_size": None}


def sample_memory_a2c_params(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Any:
    """Sample options of MemoryA2C; the arguments are the same as for ``sample_memory_ppo_params``."""
    params = _common(trial)
    params["use_rms_prop"] = trial.suggest_categorical("use_rms_prop", [False, True])
    return convert_params(params)


def _common(trial: Any) -> dict[str, Any]:
    """Sample the options of both algorithms. Lengths are powers of two, so that chunks divide rollouts."""
    params = {
        "n_steps_pow": trial.suggest_int("n_steps_pow", 4, 8),
        "chunk_length_pow": trial.suggest_int("chunk_length_pow", 3, 8),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-4, 0.1, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 1e-4, 0.1, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 5e-3, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 0.1, log=True),
        "vf_coef": trial.suggest_float("vf_coef", 0.01, 1.0, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.05, 2.0, log=True),
        "critic_core": trial.suggest_categorical("critic_core", ["shared", "detached", "separate", "none"]),
        "hidden_size": trial.suggest_categorical("hidden_size", [32, 64, 128, 256]),
        "core": trial.suggest_categorical("core", CORES),
    }
    if params["core"] == "fast_weights":
        params["fast_lr"] = trial.suggest_float("fast_lr", 0.003, 1.0, log=True)
        params["decay"] = trial.suggest_float("decay", 0.8, 1.0)
        params["inner_steps"] = trial.suggest_int("inner_steps", 1, 3)
        params["identity_scale"] = trial.suggest_categorical("identity_scale", [0.05, 0.5, 1.0])
    return params


OF_CORE = ("fast_lr", "decay", "inner_steps", "identity_scale")
OF_POLICY = ("core", "hidden_size", "critic_core")


def convert_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Convert sampled parameters, also from a stored trial, to arguments of the algorithm."""
    rest = dict(sampled_params)
    n_steps = 2 ** rest.pop("n_steps_pow")
    core = {name: rest.pop(name) for name in OF_CORE if name in rest}
    policy = {name: rest.pop(name) for name in OF_POLICY}
    return {
        "n_steps": n_steps,
        "chunk_length": min(n_steps, 2 ** rest.pop("chunk_length_pow")),
        "gamma": 1 - rest.pop("one_minus_gamma"),
        "gae_lambda": 1 - rest.pop("one_minus_gae_lambda"),
        "policy_kwargs": {**policy, **({"core_kwargs": core} if core else {})},
        **rest,
    }
