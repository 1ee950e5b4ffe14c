"""One training run: environments, agent, callbacks, and the closing evaluation."""

import contextlib
import importlib
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from fwagents.runs.agent import policy_options
from fwagents.runs.algorithms import ALGORITHMS, load_model
from fwagents.runs.cli import FULL
from fwagents.runs.environments import Environment
from fwagents.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    RESULT,
    begin_again,
    new_run_dir,
    provenance,
    read_json,
    reopen,
    write_json,
)
from fwagents.runs.interrupts import INTERRUPTED, begun
from fwagents.runs.locks import alone_with
from fwagents.runs.shell import command, tensorboard
from fwagents.sb3.board import describe_run
from fwagents.sb3.callbacks import (
    EpisodeLogCallback,
    EvaluationCallback,
    LogCallback,
    MemoryNormCallback,
    ProgressCallback,
)
from fwagents.sb3.checkpoints import CheckpointCallback, load_normalizer, newest_whole, restore, save_model
from fwagents.sb3.faults import EnvironmentFault
from fwagents.sb3.logging import run_logger
from fwagents.sb3.masks import MASKS, random_legal
from fwagents.sb3.normalizing import normalized
from fwagents.sb3.presets import scheduled
from fwagents.sb3.registry import policy_for

EVAL_SEED = 1_000_000  # far from every training seed
FINAL_SEED = 2_000_000
RANDOM_EPISODES = 30  # episodes of the random player, if its exact return is not known
RESAMPLES = 1000  # samples of the bootstrap
PLAYERS = {"optimal": "best possible", "memoryless": "best memoryless player", "random": "random player"}
COMPARED = ("env", "core", "hidden_size", "algo", "learning_rate", "seed")  # columns of TensorBoard's table of runs


class Run:
    """A run of ``fwagents agent``: built from its options, then begun or resumed, then trained.

    Args:
        args: the command line.
        env_kwargs: keyword arguments of the environment.
        core_kwargs: options of the core.

    Raises:
        ValueError, TypeError: an option is not possible; the message names it. Nothing has been written then.
    """

    def __init__(self, args: Any, env_kwargs: dict[str, Any], core_kwargs: dict[str, Any]) -> None:
        self.args, self.env_kwargs = args, env_kwargs
        self.held = contextlib.ExitStack()
        self.judging = False  # training is over and its last model saved
        self.environment = Environment.of(vars(args), env_kwargs)
        if args.log_memory:
            # If one of these two lines fails, it raises here, before anything is written.
            importlib.import_module("fwagents.figures")
            self.drawn_env = self.environment.one(render_mode=self.environment.render_mode(["rgb_array"]))
        self.console = Console(markup=False, emoji=False)  # a path may look like either
        torch.set_num_threads(args.threads)
        self.venv = self.environment.many(args.num_envs, args.seed)
        if args.normalize:
            self.venv = normalized(self.venv, args.norm_obs_keys, gamma=args.gamma)
        algorithm = ALGORITHMS[args.algo]
        self.policy_kwargs = policy_options(args, core_kwargs)
        self.model: BaseAlgorithm = algorithm.make(
            policy_for(self.venv.observation_space),
            self.venv,
            learning_rate=scheduled(args.learning_rate, args.lr_schedule),
            policy_kwargs=dict(self.policy_kwargs),  # a copy: SB3 adds classes to it, which are not JSON
            **{name: getattr(args, name) for name in algorithm.options},
        )

    def begin(self) -> None:
        """Make the run's folder, write its ``config.json`` and start the log."""
        args = self.args
        config = {
            "args": {**asdict(args), "log_dir": str(args.log_dir), "resume": None},
            "env_kwargs": self.env_kwargs,
            "policy_kwargs": self.policy_kwargs,
            **provenance(),
        }
        self.dir = new_run_dir(args.log_dir, args.env, args.core, args.seed, config)
        self._hold()
        self.console.print(f"Run folder: {self.dir}", soft_wrap=True)
        self._start(config["args"])

    def _start(self, options: dict[str, Any]) -> None:
        """Make the callbacks and the log of a run at its first step; ``options`` are its config.json's ``args``."""
        self._make_callbacks()
        self.model.set_logger(run_logger(self.dir))
        compared = {name: getattr(self.args, name) for name in COMPARED}
        given = {**compared, **self.env_kwargs, **self.policy_kwargs["core_kwargs"]}
        describe_run(self.model.logger, given, options)

    def _hold(self) -> None:
        """Lock the run's folder against other processes until this process ends."""
        self.held.enter_context(alone_with(self.dir))

    def resume(self, run_dir: Path) -> None:
        """Resume from the newest complete checkpoint of a run's folder, or from the start if there is none yet.

        Raises:
            ValueError: the run is finished.
            FileNotFoundError: the run has no complete checkpoint.
        """
        self.dir = run_dir
        self._hold()
        reopen(run_dir)
        if self._kept():
            self._restore()
            self.console.print(f"Resumed {run_dir} at {self.model.num_timesteps:,} steps", soft_wrap=True)
        elif self.args.checkpoint_freq:
            begin_again(run_dir)
            self._start(read_json(run_dir / CONFIG)["args"])
            self.console.print(f"Resumed {run_dir} at its first step: it had no checkpoint yet", soft_wrap=True)
        else:
            raise FileNotFoundError(f"{run_dir} has no checkpoint to resume from: --checkpoint-freq was 0")
        (run_dir / RESULT).unlink(missing_ok=True)

    def _restore(self) -> None:
        make: Any = ALGORITHMS[self.args.algo].make

        def load(path: Path) -> BaseAlgorithm:
            model: BaseAlgorithm = make.load(path, env=self.venv, device=self.args.device, force_reset=False)
            return model

        with warnings.catch_warnings(record=True) as skipped:
            warnings.simplefilter("always")
            self.model, state = newest_whole(self.dir / CHECKPOINTS, load)
        for warning in skipped:
            self.console.print(str(warning.message), style="yellow", soft_wrap=True)
        self.model.set_logger(run_logger(self.dir, self.model.num_timesteps))
        self._make_callbacks()
        if not restore(self.model, self.callbacks, state):
            self._say_episodes_begin()

    def _say_episodes_begin(self) -> None:
        self.console.print(
            f"New episodes begin: {self.args.env}, as it is made here, cannot give its state", soft_wrap=True
        )

    def go(self) -> int:
        """Train, save, evaluate; return the exit code: 130 after an interrupt, 1 if training could not continue."""
        begun()
        try:
            return self._finish(self._learn_or_diverge())
        except KeyboardInterrupt:
            return self._interrupted()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise  # nothing more can be written
            return self._failed(error)

    def _learn_or_diverge(self) -> str | None:
        """Train; return the reason if training diverged, else None."""
        try:
            self._learn()
        except FloatingPointError as error:  # divergence is a result: training again would diverge again
            self.console.print(f"stopped: {error}", style="red", soft_wrap=True)
            self._say_what_is_kept()
            return str(error)
        return None

    def _finish(self, stopped: str | None) -> int:
        """Save the agent and evaluate it; ``stopped`` is the reason if training diverged."""
        save_model(self.model, self.dir / "final_model.zip")
        self.judging = True
        try:
            self._report(stopped)
        except (ValueError, FloatingPointError, RuntimeError):
            if stopped is None:
                raise
            # The diverged agent cannot play: torch refuses to sample from its distributions, whose parameters may not
            # have been checked before.
            write_json(self.dir / RESULT, {"steps": self.model.num_timesteps, "stopped": stopped})
        return int(stopped is not None)

    def _interrupted(self) -> int:
        path = self.dir / ("final_model.zip" if self.judging else "interrupted_model.zip")
        if not self.judging:
            save_model(self.model, path)
        self.console.print(
            f"\nInterrupted after {self.model.num_timesteps:,} steps; the agent is in {path}", soft_wrap=True
        )
        self._say_how_to_go_on()
        return INTERRUPTED

    def _failed(self, error: Exception) -> int:
        """Print the error, in the environment or elsewhere, and leave a run that can be resumed once it is fixed."""
        told = isinstance(error, EnvironmentFault | ChildProcessError)  # the message is complete without the type
        why = str(error) if told else f"{type(error).__name__}: {error}"
        self.console.print(f"stopped: {why}", style="red", soft_wrap=True)
        shown = error.__cause__ if told else error
        if shown is not None:
            traceback.print_exception(shown)
        save_model(self.model, self.dir / "interrupted_model.zip")
        steps = self.model.num_timesteps
        write_json(self.dir / RESULT, {"steps": steps, "stopped": why, "resumable": True})
        self._say_what_is_kept()
        self._say_how_to_go_on()
        return 1

    @property
    def _log_interval(self) -> int:
        """Rollouts between two lines of the log: about 200 lines in all."""
        return max(1, int(self.args.total_timesteps // (self.args.n_steps * self.args.num_envs)) // 200)

    def _learn(self) -> None:
        self.model.learn(
            self.args.total_timesteps - self.model.num_timesteps,
            callback=[*self.callbacks, LogCallback(self._log_interval), *self.checkpoints],
            log_interval=cast(int, None),  # LogCallback writes the log
            reset_num_timesteps=False,
        )

    def _kept(self) -> list[Path]:
        """The run's checkpoints, the newest last."""
        return sorted((self.dir / CHECKPOINTS).glob("step_*"))

    def _say_what_is_kept(self) -> None:
        if self._kept():
            self.console.print(f"The last good checkpoints are in {self.dir / CHECKPOINTS}", soft_wrap=True)

    def _say_how_to_go_on(self) -> None:
        again, kept = command("agent", "--resume", self.dir), self._kept()
        if kept:
            steps = int(kept[-1].stem.removeprefix("step_"))
            self._print_command(f"Go on from the last checkpoint, at {steps:,} steps:  {again}")
        elif self.args.checkpoint_freq:
            self._print_command(f"Begin again, as there is no checkpoint yet:  {again}")

    def _print_command(self, line: str) -> None:
        """Print a line that can be pasted: neither wrapped nor highlighted."""
        self.console.print(line, soft_wrap=True, highlight=False)

    @property
    def _steps_per_call(self) -> int:
        """Environment steps between two calls of the callbacks."""
        return int(self.args.num_envs)

    def _make_callbacks(self) -> None:
        """Make the callbacks that watch the run and, apart from them, the one that saves it, which is called last."""
        args = self.args
        self.callbacks: list[BaseCallback] = [
            MemoryNormCallback(),
            EpisodeLogCallback(self.dir / "monitor.csv", args.env),
            ProgressCallback(args.total_timesteps, max(1, args.total_timesteps // 20)),
        ]
        if args.eval_freq > 0:
            seed = EVAL_SEED + args.seed
            env = self._fresh_env(args.eval_episodes, seed)
            if args.normalize:  # SB3's callback copies the training statistics into it
                env = normalized(env, args.norm_obs_keys, training=False, norm_reward=False)
            env = self.model._wrap_env(env, monitor_wrapper=False)  # as SB3 has wrapped the training environments
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
        """Evaluate the last and the best model on fresh episodes; print a table and write ``result.json``."""
        args = self.args
        table = Table(title=f"{args.env}: {args.final_episodes:,} fresh episodes")
        for column in ("player", "mean return", "95 % interval", "success"):
            table.add_column(column, justify="left" if column == "player" else "right")
        results = {}
        for name in ("final_model", "best_model"):
            path = self.dir / f"{name}.zip"
            if not path.exists():
                continue
            model = load_model(args.algo, path, args.device)
            env = load_normalizer(path, self._fresh_env(args.final_episodes, FINAL_SEED + args.seed))
            greedy, sampled = (self._judge(model, env, deterministic) for deterministic in (True, False))
            results[name] = {**greedy, "sampled": sampled}
            if getattr(model.policy.actor_core, "inner_steps", None) == "adaptive":
                results[name]["inner_steps_taken"] = self._inner_steps_taken(model, env)
            table.add_row(*_row(f"{name}, greedy", greedy))
            table.add_row(*_row(f"{name}, sampled", sampled))
        references = self._references()
        table.add_section()
        for name, result in references.items():
            table.add_row(*_row(PLAYERS[name], result))
        why = {} if stopped is None else {"stopped": stopped}
        write_json(self.dir / RESULT, {"steps": self.model.num_timesteps, **why, **results, "references": references})
        self.console.print(table)
        for line in self._how_to_read("memoryless" in references):
            self.console.print(line, soft_wrap=True)
        self._print_command(f"Watch it play:    {command('watch', self.dir)}")
        self._print_command(f"As a GIF:         {command('watch', self.dir, '--output', 'play.gif')}")
        self._print_command(f"Learning curves:  {tensorboard(args.log_dir)}")

    def _judge(self, model: BaseAlgorithm, env: VecEnv, deterministic: bool) -> dict[str, Any]:
        """Evaluate an agent on the final episodes, which are the same for every agent."""
        seed = FINAL_SEED + self.args.seed
        env.seed(seed)
        torch.manual_seed(seed)
        return evaluate(model, env, self.args.final_episodes, deterministic)

    def _references(self) -> dict[str, dict[str, Any]]:
        """Return reference players' results: exact returns where they are known, else a random player's sampled one."""
        if known := self.environment.reference_returns():
            return {name: {"mean_return": value} for name, value in known.items()}
        episodes = min(RANDOM_EPISODES, self.args.final_episodes)
        env = self._fresh_env(episodes, FINAL_SEED + self.args.seed)
        env.action_space.seed(self.args.seed)
        return {"random": evaluate(RandomPlayer(env), env, episodes)}

    def _how_to_read(self, memoryless: bool) -> list[str]:
        remembers = "memory" if self.args.frame_stack == 1 else "memory or its stack of observations"
        remembers += ", or what it is told of its last step" if self.args.observe else ""
        lines = [
            "Greedy play takes the likeliest action; sampled play draws one, as training does.",
            f"An agent above the best memoryless player, which sees one observation at a time, uses its {remembers}; "
            "one at the random player has learned nothing."
            if memoryless
            else "An agent at the random player has learned nothing.",
        ]
        if self.args.wrappers:
            lines.append(
                "Returns are counted outside --wrappers: rewards that they clip and lives that they end count so."
            )
        return lines

    def _inner_steps_taken(self, model: BaseAlgorithm, env: VecEnv) -> float:
        """Return the mean number of inner steps over the steps of some fresh episodes."""
        from fwagents.inspection import trace

        normalize_obs = env.normalize_obs if isinstance(env, VecNormalize) else None
        seed = FINAL_SEED + self.args.seed
        found = trace(model, self.environment.one(), episodes=20, seed=seed, growth=False, normalize_obs=normalize_obs)
        assert found.inner_steps is not None
        return float(found.inner_steps[found.valid].mean())


class RandomPlayer:
    """A player that samples actions uniformly, from the legal ones if the observation holds masks.

    Args:
        env: environments to play in.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, None]:
        """Random actions [B, ...] and no state, as ``predict`` of an SB3 model."""
        space = self.env.action_space
        if isinstance(observation, dict) and MASKS in observation:
            return random_legal(observation[MASKS], space), None
        return np.stack([space.sample() for _ in range(self.env.num_envs)]), None


def evaluate(model: Any, env: VecEnv, episodes: int, deterministic: bool = True) -> dict[str, Any]:
    """Play episodes; return the mean return with its 95 % interval, and the success rate if the environment tells.

    Args:
        model: model with SB3's ``predict``.
        env: environments to play in.
        episodes: number of episodes.
        deterministic: False samples the actions.
    """
    successes: list[bool] = []

    def note_success(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"] and "is_success" in local["info"]:
            successes.append(bool(local["info"]["is_success"]))

    returns, _ = evaluate_policy(
        model,
        env,
        n_eval_episodes=episodes,
        deterministic=deterministic,
        return_episode_rewards=True,
        callback=note_success,
    )
    assert isinstance(returns, list)
    return {
        "episodes": len(returns),
        "mean_return": float(np.mean(returns)),
        "interval": interval(np.asarray(returns, float)),
        "success_rate": float(np.mean(successes)) if successes else None,
    }


def interval(returns: np.ndarray) -> list[float]:
    """Return a 95 % interval of the mean of returns [N], by the percentile bootstrap, which stays in their range."""
    rng = np.random.default_rng(0)
    means = [returns[rng.integers(len(returns), size=len(returns))].mean() for _ in range(RESAMPLES)]
    return [float(bound) for bound in np.percentile(means, [2.5, 97.5])]


def _row(player: str, result: dict[str, Any]) -> list[str]:
    """Return a row of the closing table; a return that is known exactly has no interval."""
    success = result.get("success_rate")
    bounds = " to ".join(f"{bound:.3f}" for bound in result["interval"]) if "interval" in result else "exact"
    return [player, f"{result['mean_return']:.3f}", bounds, "" if success is None else f"{success:.1%}"]
