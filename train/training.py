"""One training run: environments, agent, callbacks, and the closing evaluation."""

import importlib
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from algorithms import ALGORITHMS, load_model
from cli import INTERRUPTED
from environments import Environment
from fwagents.sb3.board import describe_run
from fwagents.sb3.callbacks import EpisodeLogCallback, EvaluationCallback, MemoryNormCallback, ProgressCallback
from fwagents.sb3.checkpoints import CheckpointCallback, load_normalizer, newest_whole, restore, save_model
from fwagents.sb3.logging import run_logger
from fwagents.sb3.policies import policy_for
from runs import CONFIG, RESULT, new_run_dir, provenance, write_json

EVAL_SEED = 1_000_000  # far from every training seed
FINAL_SEED = 2_000_000
CHECKPOINTS = "checkpoints"
COMPARED = ("env", "core", "hidden_size", "algo", "learning_rate", "seed")  # columns of TensorBoard's table of runs


class Run:
    """A run of ``train/agent.py``: built from its options, then begun or resumed, then trained.

    Args:
        args: the command line.
        env_kwargs: keyword arguments of the environment.
        core_kwargs: options of the core.

    Raises:
        ValueError, TypeError: something in them cannot be; the message names it. Nothing has been written then.
    """

    def __init__(self, args: Any, env_kwargs: dict[str, Any], core_kwargs: dict[str, Any]) -> None:
        self.args, self.env_kwargs = args, env_kwargs
        self.environment = Environment.of(vars(args), env_kwargs)
        if args.log_memory:
            # If either cannot be, that is said before anything is written.
            importlib.import_module("fwagents.figures")
            self.drawn_env = self.environment.one(render_mode=self.environment.render_mode(["rgb_array"]))
        self.console = Console()
        torch.set_num_threads(args.threads)
        self.venv = self.environment.many(args.num_envs, args.seed)
        if args.normalize:
            self.venv = VecNormalize(self.venv, gamma=args.gamma)
        rate = args.learning_rate
        algorithm = ALGORITHMS[args.algo]
        self.policy_kwargs = {
            "core": args.core,
            "hidden_size": args.hidden_size,
            "core_kwargs": core_kwargs,
            "critic_core": args.critic_core,
        }
        self.model: BaseAlgorithm = algorithm.make(
            policy_for(self.venv.observation_space),
            self.venv,
            learning_rate=LinearSchedule(rate, 0.1 * rate, 1.0) if args.lr_schedule == "linear" else rate,
            policy_kwargs=dict(self.policy_kwargs),  # SB3 adds classes to it, which are no JSON
            **{name: getattr(args, name) for name in algorithm.options},
        )

    def begin(self) -> None:
        """Make the run's folder and write down what runs there."""
        args = self.args
        self.dir = new_run_dir(args.log_dir, args.env, args.core, args.seed)
        config = {
            "args": {**asdict(args), "log_dir": str(args.log_dir), "resume": None},
            "env_kwargs": self.env_kwargs,
            "policy_kwargs": self.policy_kwargs,
            **provenance(),
        }
        write_json(self.dir / CONFIG, config)
        self.console.print(f"Run folder: [bold]{self.dir}[/bold]", soft_wrap=True)
        self._make_callbacks()
        self.model.set_logger(run_logger(self.dir))
        compared = {name: getattr(args, name) for name in COMPARED}
        given = {**compared, **self.env_kwargs, **self.policy_kwargs["core_kwargs"]}
        describe_run(self.model.logger, given, config["args"])

    def resume(self, run_dir: Path) -> None:
        """Go on from the newest whole checkpoint of a run's folder.

        Raises:
            ValueError: the run is finished.
            FileNotFoundError: it has no whole checkpoint.
        """
        self.dir = run_dir
        if (run_dir / RESULT).exists():
            raise ValueError(f"{run_dir} is finished: it has a {RESULT}")
        self._restore()
        self.console.print(f"Resumed [bold]{run_dir}[/bold] at {self.model.num_timesteps:,} steps", soft_wrap=True)

    def _restore(self) -> None:
        with warnings.catch_warnings(record=True) as skipped:
            warnings.simplefilter("always")
            path, state = newest_whole(self.dir / CHECKPOINTS)
        for warning in skipped:
            self.console.print(f"[yellow]{warning.message}[/yellow]", soft_wrap=True)
        make: Any = ALGORITHMS[self.args.algo].make
        self.model = make.load(path, env=self.venv, device=self.args.device, force_reset=False)
        self.model.set_logger(run_logger(self.dir, self.model.num_timesteps))
        self._make_callbacks()
        restore(self.model, self.callbacks, state)

    def go(self) -> int:
        """Train, save, evaluate; returns the exit code: 130 after an interrupt, 1 if training could not go on."""
        model, stopped = self.model, None
        try:
            self._learn()
        except KeyboardInterrupt:
            path = self.dir / "interrupted_model.zip"
            save_model(model, path)
            self.console.print(
                f"\nInterrupted after {model.num_timesteps:,} steps; the agent is in {path}", soft_wrap=True
            )
            self._say_how_to_go_on()
            return INTERRUPTED
        except (FloatingPointError, ChildProcessError) as error:
            self.console.print(f"[red]stopped: {error}[/red]", soft_wrap=True)
            self.console.print(f"The last good checkpoints are in {self.dir / CHECKPOINTS}", soft_wrap=True)
            if isinstance(error, ChildProcessError):
                return 1
            stopped = str(error)  # a result like any other: trained again, it would come to the same
        save_model(model, self.dir / "final_model.zip")
        try:
            self._report(stopped)
        except KeyboardInterrupt:
            self.console.print(f"\nInterrupted; the agent is in {self.dir / 'final_model.zip'}", soft_wrap=True)
            self._say_how_to_go_on()
            return INTERRUPTED
        except ValueError:
            if stopped is None:
                raise
            return 1  # it is so far gone that it cannot play
        return int(stopped is not None)

    @property
    def _log_interval(self) -> int:
        """Rollouts between two lines of the log: about 200 lines in all."""
        return max(1, self.args.total_timesteps // (self.args.n_steps * self.args.num_envs) // 200)

    def _learn(self) -> None:
        self.model.learn(
            self.args.total_timesteps - self.model.num_timesteps,
            callback=[*self.callbacks, *self.checkpoints],
            log_interval=self._log_interval,
            reset_num_timesteps=False,
        )

    def _say_how_to_go_on(self) -> None:
        kept = sorted((self.dir / CHECKPOINTS).glob("step_*"))
        if kept:
            steps = int(kept[-1].stem.removeprefix("step_"))
            self.console.print(
                f"Go on from the last checkpoint, at {steps:,} steps:  python train/agent.py --resume {self.dir}",
                soft_wrap=True,
            )

    @property
    def _steps_per_call(self) -> int:
        """Environment steps between two calls of the callbacks."""
        return int(self.args.num_envs)

    def _make_callbacks(self) -> None:
        """What watches the run, and apart from it what saves it, after all the others have done their part."""
        args = self.args
        self.callbacks: list[BaseCallback] = [
            MemoryNormCallback(),
            EpisodeLogCallback(self.dir / "monitor.csv", args.env),
            ProgressCallback(args.total_timesteps, max(1, args.total_timesteps // 20)),
        ]
        if args.eval_freq > 0:
            seed = EVAL_SEED + args.seed
            env = self._fresh_env(args.eval_episodes, seed)
            if args.normalize:  # the callback carries the statistics over
                env = VecNormalize(env, training=False, norm_reward=False)
            self.callbacks.append(
                EvaluationCallback(env, seed, args.eval_episodes, args.eval_freq, self.dir, self._steps_per_call)
            )
        if args.log_memory:
            from fwagents.sb3.memory_log import MemoryLogCallback

            every = args.log_memory_freq or max(1, args.total_timesteps // 20)
            self.callbacks.append(MemoryLogCallback(self.drawn_env, EVAL_SEED + args.seed, every))
        self.checkpoints = []
        if args.checkpoint_freq > 0:
            self.checkpoints.append(CheckpointCallback(self.dir / CHECKPOINTS, args.checkpoint_freq, self.callbacks))

    def _fresh_env(self, episodes: int, seed: int) -> VecEnv:
        return self.environment.many(min(self.args.num_envs, episodes), seed)

    def _report(self, stopped: str | None) -> None:
        """Evaluate the last and the best model on fresh episodes; a table, and ``result.json``, with why it stopped."""
        args = self.args
        table = Table(title=f"{args.env}: greedy play over {args.final_episodes:,} fresh episodes")
        for column in ("model", "mean return", "95 % interval", "success"):
            table.add_column(column, justify="left" if column == "model" else "right")
        results = {}
        for name in ("final_model", "best_model"):
            path = self.dir / f"{name}.zip"
            if not path.exists():
                continue
            model = load_model(args.algo, path, args.device)
            env = load_normalizer(path, self._fresh_env(args.final_episodes, FINAL_SEED + args.seed))
            results[name] = result = evaluate(model, env, args.final_episodes)
            if getattr(model.policy.actor_core, "inner_steps", None) == "adaptive":
                result["inner_steps_taken"] = self._inner_steps_taken(model, env)
            low, high = result["interval"]
            success = "" if result["success_rate"] is None else f"{result['success_rate']:.1%}"
            table.add_row(name, f"{result['mean_return']:.3f}", f"{low:.3f} to {high:.3f}", success)
        why = {} if stopped is None else {"stopped": stopped}
        write_json(self.dir / RESULT, {"steps": self.model.num_timesteps, **why, **results})
        self.console.print(table)
        self.console.print(f"Watch it play:    python train/watch.py {self.dir}", soft_wrap=True)
        self.console.print(f"As a GIF:         python train/watch.py {self.dir} --output play.gif", soft_wrap=True)
        self.console.print(f"Learning curves:  tensorboard --logdir {args.log_dir}", soft_wrap=True)

    def _inner_steps_taken(self, model: BaseAlgorithm, env: VecEnv) -> float:
        """Mean over the steps of some fresh episodes."""
        from fwagents.inspection import trace

        normalize_obs = env.normalize_obs if isinstance(env, VecNormalize) else None
        seed = FINAL_SEED + self.args.seed
        found = trace(model, self.environment.one(), episodes=20, seed=seed, growth=False, normalize_obs=normalize_obs)
        return float(found.inner_steps[found.valid].mean())


def evaluate(model: BaseAlgorithm, env: VecEnv, episodes: int) -> dict[str, Any]:
    """Greedy play: mean return with its 95 % interval (normal, over episodes), and success rate if the env tells."""
    successes: list[bool] = []

    def note_success(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"] and "is_success" in local["info"]:
            successes.append(bool(local["info"]["is_success"]))

    returns, _ = evaluate_policy(
        model, env, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True, callback=note_success
    )
    mean = float(np.mean(returns))
    half = float(1.96 * np.std(returns, ddof=min(1, len(returns) - 1)) / len(returns) ** 0.5)
    return {
        "episodes": len(returns),
        "mean_return": mean,
        "interval": [mean - half, mean + half],
        "success_rate": float(np.mean(successes)) if successes else None,
    }
