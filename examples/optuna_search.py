"""A search of your own with Optuna: a trial trains a small agent, and its score is the agent's mean return.

    python examples/optuna_search.py

The agent has to remember one bit for five steps (`MemoryChain-v0`). Eight trials choose a core, a learning rate and a
weight of the entropy bonus, in about a minute. Expect a best return of 1.0; some trials stay at 0, a guess.
`fwagents tune` is the package's own search: over seeds, by many processes, and resumable.
"""

import optuna
import torch
import tyro
from stable_baselines3.common.evaluation import evaluate_policy

from fwagents.sb3 import MemoryPPO


def score(trial: optuna.trial.BaseTrial, total_timesteps: int) -> float:
    """Train an agent with the settings of a trial; return its mean return."""
    agent = MemoryPPO.for_env(
        "MemoryChain-v0",
        core=trial.suggest_categorical("core", ["rotary_fast_weights", "gru"]),
        env_kwargs={"length": 5},
        hidden_size=32,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        ent_coef=trial.suggest_categorical("ent_coef", [0.0, 0.01, 0.03]),
    )
    agent.learn(total_timesteps)
    return float(evaluate_policy(agent, agent.get_env(), n_eval_episodes=200)[0])


def main(total_timesteps: int = 20_000, trials: int = 8) -> optuna.Study:
    """Search; every trial trains for ``total_timesteps``."""
    torch.set_num_threads(1)  # small agents are fastest on one
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=4))
    study.optimize(lambda trial: score(trial, total_timesteps), n_trials=trials)
    for trial in study.trials:
        print(f"{trial.value:6.2f}  {trial.params}")
    print(f"best: return {study.best_value:.2f} with {study.best_params}")
    return study


if __name__ == "__main__":
    tyro.cli(main)
