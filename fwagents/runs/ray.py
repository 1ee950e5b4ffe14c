"""One training run on Ray RLlib: env runners play, here or on a cluster, and this process learns.

The run also has an SB3 agent. The weights are copied to it, so that they are evaluated, saved and watched as for SB3.
"""

import logging
import math
import os
import pickle
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.tune.registry import register_env
from stable_baselines3.common.callbacks import CallbackList

from fwagents.rllib import EpisodeLog, to_sb3, with_memory
from fwagents.rllib.episodes import EPISODES
from fwagents.runs.environments import Environment
from fwagents.runs.folder import CHECKPOINTS
from fwagents.runs.run import Run
from fwagents.sb3.callbacks import MemoryNormCallback
from fwagents.sb3.logging import run_logger
from fwagents.sb3.ppo import check_batch_size
from fwagents.sb3.vec_env import native_creator

OBJECT_STORE = 200_000_000  # bytes, for a cluster of this machine alone; objects beyond that go to the disk
PARTIAL = ".partial-"
LIVES = 3  # restarts per runner without any step in between, after which the run fails
PROBE = 10.0  # seconds for a cluster to answer
RUN_STATE = "run.pkl"
AROUND = "fwagents-wrapped"  # the registered name of an environment with wrappers
# RLlib's names of its metrics, and SB3's names.
LEARNED = {
    "policy_loss": "train/policy_gradient_loss",
    "vf_loss": "train/value_loss",
    "vf_explained_var": "train/explained_variance",
    "gradients_default_optimizer_global_norm": "train/gradient_norm",
    "default_optimizer_learning_rate": "train/learning_rate",
}
# Metrics that may be infinite: 1 - residual variance / variance, where the variance may be 0.
BOUNDLESS = ("train/explained_variance",)


class RayRun(Run):
    """A run of ``fwagents agent --engine ray``, with the arguments of ``Run``.

    Raises:
        ValueError: RLlib's agents lack an option, or the runners cannot share the environments evenly.
    """

    resumed_from: Path | None = None

    def __init__(self, args: Any, env_kwargs: dict[str, Any], core_kwargs: dict[str, Any]) -> None:
        if args.vec_env == "subproc":
            raise ValueError("--vec-env is 'subproc', expected auto or dummy with --engine ray: runners are processes")
        if args.num_workers < 0 or args.num_envs % max(1, args.num_workers):
            raise ValueError(
                f"--num-workers is {args.num_workers}, expected 0 or a divisor of --num-envs, {args.num_envs}"
            )
        check_batch_size(args.batch_size, args.chunk_length or args.n_steps)
        # The SB3 agent never plays: its environments only define its observation and action spaces.
        super().__init__(replace(args, num_envs=min(2, args.num_envs), batch_size=None), env_kwargs, core_kwargs)
        self.args = args
        self.config = algorithm_config(args, self.environment, self.model.policy_kwargs)

    def begin(self) -> None:
        """Join the cluster, then begin as any run does: without a cluster, nothing is written."""
        connect(self.args.address, self.args.num_workers)
        super().begin()

    def resume(self, run_dir: Path) -> None:
        """Resume as any run does, then join the cluster."""
        super().resume(run_dir)
        connect(self.args.address, self.args.num_workers)

    @property
    def _steps_per_call(self) -> int:
        return int(self.args.num_envs * self.args.n_steps)

    def _make_callbacks(self) -> None:
        super()._make_callbacks()
        # The memory's states are in the env runners; the checkpoints are RLlib's own.
        self.callbacks = [c for c in self.callbacks if not isinstance(c, MemoryNormCallback)]
        self.checkpoints = []

    def _restore(self) -> None:
        """Restore weights, optimizer and counters from the newest checkpoint; env runners begin new episodes."""
        folder = self.dir / CHECKPOINTS
        for partial in folder.glob(f"{PARTIAL}*"):  # left by a run that was killed
            shutil.rmtree(partial)
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
        self._say_episodes_begin()

    def _learn(self) -> None:
        model = self.model
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
        args, model, runners = self.args, self.model, algorithm.env_runner_group
        begun, first_steps, iterations, lost = time.time(), model.num_timesteps, 0, 0
        self._save(algorithm)
        while model.num_timesteps < args.total_timesteps:
            before = model.num_timesteps
            result = algorithm.train()
            model.num_timesteps = int(result.get("num_env_steps_sampled_lifetime", 0))
            if model.num_timesteps <= before:  # APPO does not wait for samples
                model.num_timesteps = before
                if (died := runners.num_remote_worker_restarts() - lost) >= LIVES * args.num_workers > 0:
                    raise ChildProcessError(
                        f"{died} env runners were lost without a step between them; if it is the environment that "
                        "fails, --num-workers 0 shows how"
                    )
                continue
            iterations, lost = iterations + 1, runners.num_remote_worker_restarts()
            learned = result.get("learners", {}).get(DEFAULT_MODULE_ID, {})
            check_finite(learned)
            episodes = result["env_runners"].get(EPISODES, [])
            assert model.ep_info_buffer is not None
            assert model.ep_success_buffer is not None
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
                self._log(learned, fps, runners.num_healthy_remote_workers())
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
        """Save a checkpoint folder ``step_<steps>``, which is complete or absent at any time."""
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


def check_finite(learned: dict[str, Any]) -> None:
    """Raise FloatingPointError if a training metric of RLlib is not finite; the message names the metric."""
    for theirs, ours in LEARNED.items():
        if theirs in learned and ours not in BOUNDLESS and not math.isfinite(learned[theirs]):
            raise FloatingPointError(f"{ours} is {float(learned[theirs])}")


def connect(address: str | None, num_workers: int) -> None:
    """Join a running cluster, or start a cluster of this machine alone.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address, num_workers)
    finally:
        # Ray installs its own handler, which exits at once. It is kept only if the caller had no handler.
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)


def _connect(address: str | None, num_workers: int) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        alone = {"num_cpus": num_workers + 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        # Without "local", Ray would try to join the last cluster of this machine, and fail if that is dead.
        ray.init(address="local", **alone, **quiet)
    else:
        _probe(address)
        ray.init(address=address, **quiet)
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)


def _probe(address: str) -> None:
    """Raise ConnectionError unless something answers at a cluster's address; Ray itself would try for minutes."""
    if "://" in address:
        return
    found = canonicalize_bootstrap_address_or_die(address)
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE).close()
    except OSError as error:
        raise ConnectionError(
            f"--address is {address!r}, expected that of a running cluster: nothing answers at {found} ({error})"
        ) from error


def algorithm_config(args: Any, environment: Environment, policy_kwargs: dict[str, Any]) -> AlgorithmConfig:
    """Return RLlib's configuration for the options of ``fwagents agent``."""
    rate, workers = args.learning_rate, args.num_workers
    asynchronous = args.algo == "appo"
    config: Any = APPOConfig() if asynchronous else PPOConfig()
    plain = not environment.wrappers and environment.frame_stack == 1 and not environment.observe
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
        sample_timeout_s=None,  # keep the samples of slow environments
        gym_env_vectorize_mode="vector_entry_point" if native else "sync",
    )
    config.training(
        lr=[[0, rate], [args.total_timesteps, 0.1 * rate]] if args.lr_schedule == "linear" else rate,
        train_batch_size_per_learner=args.n_steps * args.num_envs,
        gamma=args.gamma,
        clip_param=args.clip_range,
        use_kl_loss=False,
        vf_loss_coeff=args.vf_coef,
        entropy_coeff=args.ent_coef,
        grad_clip=args.max_grad_norm,
        grad_clip_by="global_norm",
    )
    if not asynchronous:
        config.training(
            lambda_=args.gae_lambda,
            num_epochs=args.n_epochs,
            minibatch_size=minibatch_size(args),
            vf_clip_param=float("inf"),
            shuffle_batch_per_epoch=minibatch_size(args) is not None,
        )
    config.learners(num_learners=0)
    # A lost runner is restarted wherever the cluster has room, while the other runners continue.
    config.fault_tolerance(
        restart_failed_env_runners=True, env_runner_health_probe_timeout_s=1, delay_between_env_runner_restarts_s=1
    )
    config.debugging(seed=args.seed, log_level="ERROR")
    config.reporting(min_time_s_per_iteration=0, metrics_num_episodes_for_smoothing=100)
    config.callbacks(EpisodeLog)
    # One step more than a rollout, since RLlib adds a step to bootstrap from. (An environment may play a few steps more
    # than a rollout when episodes of other environments end; its chunk is then cut.)
    chunk_length = args.n_steps + 1 if args.chunk_length is None else args.chunk_length
    made: AlgorithmConfig = with_memory(config, chunk_length=chunk_length, **policy_kwargs)
    return made


def minibatch_size(args: Any) -> int | None:
    """Return RLlib's minibatch size for the options of ``fwagents agent``; None for the whole rollout.

    RLlib also counts the step that it adds to every rollout to bootstrap from, and takes as many rows as hold the size
    on average. With ``--batch-size`` itself it would take no row at all if a minibatch is a single rollout.
    """
    rollout: int = args.n_steps * args.num_envs
    if args.batch_size is None or args.batch_size == rollout:
        return None
    counted: float = args.batch_size * (args.n_steps + 1) / args.n_steps
    return min(rollout, math.ceil(counted))
