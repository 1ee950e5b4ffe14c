"""One training run on Ray RLlib: env runners play, here or on a cluster, and this process learns.

An SB3 agent stands beside it, which takes over the weights to be evaluated, saved and watched like any other.
"""

import logging
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.tune.registry import register_env
from stable_baselines3.common.callbacks import CallbackList

from environments import Environment
from fwagents.rllib import EpisodeLog, to_sb3, with_memory
from fwagents.rllib.episodes import EPISODES
from fwagents.sb3.callbacks import MemoryNormCallback
from fwagents.sb3.logging import run_logger
from fwagents.sb3.vec_env import native_creator
from training import CHECKPOINTS, Run

OBJECT_STORE = 200_000_000  # bytes, of a cluster of this machine alone; what is more goes to the disk
PARTIAL = ".partial-"
RUN_STATE = "run.pkl"
AROUND = "fwagents-wrapped"  # the registered name of an environment with something around it
# What SB3's agents can and RLlib's cannot, and the value that is not to be changed.
NOT_HERE = {
    "normalize": False,
    "log_memory": False,
    "refresh_states": False,
    "clip_range_vf": None,
    "target_kl": None,
    "normalize_advantage": True,
    "device": "cpu",
}
# RLlib's names of what it measures, and SB3's.
LEARNED = {
    "policy_loss": "train/policy_gradient_loss",
    "vf_loss": "train/value_loss",
    "vf_explained_var": "train/explained_variance",
    "gradients_default_optimizer_global_norm": "train/gradient_norm",
    "default_optimizer_learning_rate": "train/learning_rate",
}


class RayRun(Run):
    """A run of ``train/agent.py --engine ray``; as :class:`Run`.

    Raises:
        ValueError: an option that RLlib's agents have not, or environments that cannot be shared out evenly.
    """

    resumed_from: Path | None = None

    def __init__(self, args: Any, env_kwargs: dict[str, Any], core_kwargs: dict[str, Any]) -> None:
        for name, value in NOT_HERE.items():
            if getattr(args, name) != value:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is {getattr(args, name)!r}, expected {value!r} with --engine ray")
        if args.algo not in ("memory_ppo", "appo"):
            raise ValueError(f"--algo is {args.algo!r}, expected memory_ppo or appo with --engine ray")
        if args.vec_env == "subproc":
            raise ValueError("--vec-env is 'subproc', expected auto or dummy with --engine ray: runners are processes")
        if args.num_workers < 0 or args.num_envs % max(1, args.num_workers):
            raise ValueError(
                f"--num-workers is {args.num_workers}, expected 0 or a divisor of --num-envs, {args.num_envs}"
            )
        super().__init__(args, env_kwargs, core_kwargs)
        self.config = algorithm_config(args, self.environment, self.model.policy_kwargs)

    @property
    def _steps_per_call(self) -> int:
        return int(self.args.num_envs * self.args.n_steps)

    def _make_callbacks(self) -> None:
        super()._make_callbacks()
        # The states are where the env runners are; the checkpoints are RLlib's own.
        self.callbacks = [c for c in self.callbacks if not isinstance(c, MemoryNormCallback)]
        self.checkpoints = []

    def _restore(self) -> None:
        """Weights, optimizer and counters of the newest checkpoint; env runners begin new episodes."""
        folder = self.dir / CHECKPOINTS
        kept = sorted(folder.glob("step_*"))
        if not kept:
            raise FileNotFoundError(f"{folder} has no checkpoint to resume from")
        self.resumed_from = kept[-1]
        # The checkpoint is the user's own, and RLlib's part of it is a pickle already.
        state = pickle.loads((kept[-1] / RUN_STATE).read_bytes())
        self.model.num_timesteps = state["steps"]
        self.model.set_logger(run_logger(self.dir, state["steps"]))
        self._make_callbacks()
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            if own is not None:
                callback.set_state(own)  # type: ignore[attr-defined]

    def _learn(self) -> None:
        args, model = self.args, self.model
        connect(args.address, args.num_workers)
        algorithm = self.config.build_algo()
        try:
            if self.resumed_from is not None:
                algorithm.restore_from_path(str(self.resumed_from.absolute()))
            watchers = CallbackList(self.callbacks)
            watchers.init_callback(model)
            watchers.on_training_start({"dones": [], "infos": []}, {})
            model._setup_learn(0, None, reset_num_timesteps=False)
            self._train(algorithm, watchers)
            watchers.on_training_end()
            to_sb3(algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID], model)
        finally:
            algorithm.stop()
            ray.shutdown()

    def _train(self, algorithm: Algorithm, watchers: CallbackList) -> None:
        args, model = self.args, self.model
        begun, first_steps, iterations = time.time(), model.num_timesteps, 0
        self._save(algorithm)
        while model.num_timesteps < args.total_timesteps:
            before = model.num_timesteps
            result = algorithm.train()
            model.num_timesteps = int(result.get("num_env_steps_sampled_lifetime", 0))
            if model.num_timesteps <= before:  # APPO does not wait for samples
                model.num_timesteps = before
                continue
            iterations += 1
            episodes = result["env_runners"].get(EPISODES, [])
            for row in episodes:
                model.ep_info_buffer.append(row)
                if row["success"] is not None:
                    model.ep_success_buffer.append(row["success"])
            to_sb3(algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID], model)
            infos = [{"episode": {name: row[name] for name in "rl"} | {"t": row["t"] - begun}} for row in episodes]
            watchers.update_locals({"dones": np.ones(len(infos), bool), "infos": infos})
            watchers.on_step()
            watchers.on_rollout_end()
            if iterations % self._log_interval == 0:
                fps = int((model.num_timesteps - first_steps) / (time.time() - begun))
                healthy = algorithm.env_runner_group.num_healthy_remote_workers()
                self._log(result.get("learners", {}).get(DEFAULT_MODULE_ID, {}), fps, healthy)
            if args.checkpoint_freq and model.num_timesteps // args.checkpoint_freq > before // args.checkpoint_freq:
                self._save(algorithm)

    def _log(self, learned: dict[str, Any], fps: int, healthy: int) -> None:
        logger, model = self.model.logger, self.model
        if model.ep_info_buffer:
            logger.record("rollout/ep_rew_mean", np.mean([row["r"] for row in model.ep_info_buffer]))
            logger.record("rollout/ep_len_mean", np.mean([row["l"] for row in model.ep_info_buffer]))
        if model.ep_success_buffer:
            logger.record("rollout/success_rate", np.mean(model.ep_success_buffer))
        for theirs, ours in LEARNED.items():
            if theirs in learned:
                logger.record(ours, float(learned[theirs]))
        if "entropy" in learned:
            logger.record("train/entropy_loss", -float(learned["entropy"]))
        logger.record("time/env_runners", healthy)
        logger.record("time/fps", fps)
        logger.record("time/total_timesteps", model.num_timesteps)
        logger.dump(model.num_timesteps)

    def _save(self, algorithm: Algorithm) -> None:
        """A folder ``step_<steps>`` that is whole or absent."""
        if not self.args.checkpoint_freq:
            return
        folder = self.dir / CHECKPOINTS
        path = folder / f"step_{self.model.num_timesteps:012d}"
        if path.exists():  # resumed from it
            return
        partial = folder / f"{PARTIAL}{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        algorithm.save_to_path(str(partial.absolute()))
        callbacks = [c.get_state() if hasattr(c, "get_state") else None for c in self.callbacks]
        state = {"steps": self.model.num_timesteps, "callbacks": callbacks}
        (partial / RUN_STATE).write_bytes(pickle.dumps(state))
        os.replace(partial, path)


def connect(address: str | None, num_workers: int) -> None:
    """Join a running cluster, or start one of this machine alone."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        alone = {"num_cpus": num_workers + 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        # "local", as Ray would join, without it, the last cluster that this machine knew, and fail where that is dead.
        ray.init(address="local", **alone, **quiet)
    else:
        ray.init(address=address, **quiet)
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)


def algorithm_config(args: Any, environment: Environment, policy_kwargs: dict[str, Any]) -> AlgorithmConfig:
    """RLlib's configuration for the options of ``train/agent.py``."""
    rate, workers = args.learning_rate, args.num_workers
    asynchronous = args.algo == "appo"
    config: Any = APPOConfig() if asynchronous else PPOConfig()
    plain = not environment.wrappers and environment.frame_stack == 1
    name = environment.id.rpartition(":")[2]
    native = plain and environment.vec_env == "auto" and native_creator(name, environment.kwargs) is not None
    if plain:
        config.environment(environment.id, env_config=environment.kwargs)
    else:
        register_env(AROUND, lambda _: environment.one())
        config.environment(AROUND)
    config.env_runners(
        num_env_runners=workers,
        num_envs_per_env_runner=args.num_envs // max(1, workers),
        rollout_fragment_length=args.n_steps,
        gym_env_vectorize_mode="vector_entry_point" if native else "sync",
    )
    config.training(
        lr=[[0, rate], [args.total_timesteps, 0.1 * rate]] if args.lr_schedule == "linear" else rate,
        train_batch_size_per_learner=args.n_steps * args.num_envs,
        gamma=args.gamma,
        lambda_=args.gae_lambda,
        clip_param=args.clip_range,
        use_kl_loss=False,
        vf_loss_coeff=args.vf_coef,
        entropy_coeff=args.ent_coef,
        grad_clip=args.max_grad_norm,
        grad_clip_by="global_norm",
    )
    if not asynchronous:
        config.training(
            num_epochs=args.n_epochs,
            minibatch_size=args.batch_size,
            vf_clip_param=float("inf"),
            shuffle_batch_per_epoch=args.batch_size is not None,
        )
    config.learners(num_learners=0)
    # A runner that is lost is started anew, wherever there is room, and the others go on meanwhile.
    config.fault_tolerance(restart_failed_env_runners=True, env_runner_health_probe_timeout_s=1)
    config.debugging(seed=args.seed, log_level="ERROR")
    config.reporting(min_time_s_per_iteration=0, metrics_num_episodes_for_smoothing=100)
    config.callbacks(EpisodeLog)
    # One step more than a rollout: RLlib adds one, to bootstrap from.
    chunk_length = args.n_steps + 1 if args.chunk_length is None else args.chunk_length
    made: AlgorithmConfig = with_memory(config, chunk_length=chunk_length, **policy_kwargs)
    return made
