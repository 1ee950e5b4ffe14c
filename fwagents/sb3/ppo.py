"""PPO with any memory core: minibatches of chunks, no padding, no loop over time in Python."""

import warnings
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3 import PPO
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import Tensor

from fwagents.cores.base import positive_int
from fwagents.sb3.buffers import Chunks
from fwagents.sb3.on_policy import MemoryRollouts
from fwagents.sb3.policies import MemoryPolicy

Self = TypeVar("Self", bound="MemoryPPO")


def check_batch_size(batch_size: object, chunk_length: int) -> int | None:
    """Return ``batch_size``; raise ValueError unless it is None or a multiple of ``chunk_length``."""
    if batch_size is None:
        return None
    size = positive_int("batch_size", batch_size)
    if size % chunk_length:
        raise ValueError(f"batch_size is {size}, expected a multiple of chunk_length ({chunk_length})")
    return size


class MemoryPPO(MemoryRollouts, PPO):
    """Proximal policy optimisation (Schulman et al., 2017) for policies with a memory.

    SB3's ``PPO`` with the same arguments, ``learn``, ``save``, ``load`` and ``predict``, and:

    Args:
        policy: "MemoryPolicy", "MemoryCnnPolicy", "MemoryMultiInputPolicy", or a class.
        env: environment, or the id of one.
        learning_rate: Adam's step size, or a function of the remaining progress.
        n_steps: steps of each environment per rollout.
        batch_size: steps per minibatch, a multiple of ``chunk_length``; None is the whole rollout. Where it does not
            divide ``n_steps * n_envs``, the last minibatch is smaller.
        n_epochs: passes over each rollout.
        chunk_length: steps over which gradients flow back (the truncation of backpropagation through time), a divisor
            of ``n_steps``; None is ``n_steps``.
        refresh_states: recompute the states at the beginnings of chunks with the current weights, before every epoch
            except the first; otherwise the states of the rollout are used.
        **kwargs: every other argument of SB3's ``PPO``; ``use_sde`` is refused.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """

    def __init__(
        self,
        policy: str | type[MemoryPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int | None = None,
        n_epochs: int = 4,
        *,
        chunk_length: int | None = None,
        refresh_states: bool = False,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self.chunk_length = chunk_length
        self.refresh_states = refresh_states
        n_steps = positive_int("n_steps", n_steps)
        super().__init__(
            cast(Any, policy),
            cast(Any, env),
            learning_rate,
            n_steps,
            # SB3's own check of the size ignores chunks. The whole rollout passes it; _setup_model makes our check.
            batch_size=max(2, n_steps * getattr(env, "num_envs", 1)),
            n_epochs=n_epochs,
            _init_setup_model=False,
            **kwargs,
        )
        self.batch_size = batch_size  # type: ignore[assignment]
        if _init_setup_model:
            self._setup_model()
            self._warn_of_a_smaller_minibatch()

    def _setup_model(self) -> None:
        self.n_epochs = positive_int("n_epochs", self.n_epochs)
        super()._setup_model()
        self.batch_size = check_batch_size(  # type: ignore[assignment]  # None is the whole rollout
            self.batch_size, self.rollout_buffer.chunk_length
        )

    def _warn_of_a_smaller_minibatch(self) -> None:
        rollout = self.n_steps * self.n_envs
        if self.batch_size is not None and rollout % self.batch_size:
            warnings.warn(
                f"batch_size is {self.batch_size}, which does not divide n_steps * n_envs ({self.n_steps} * "
                f"{self.n_envs} = {rollout}): there will be a truncated mini-batch of size {rollout % self.batch_size}",
                stacklevel=3,
            )

    def train(self) -> None:
        """Update the policy on the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]
        logs: list[dict[str, float]] = []
        stop = False
        for epoch in range(self.n_epochs):
            if epoch and self.refresh_states:
                self.policy.refresh_states(self.rollout_buffer)
            for chunks in self.rollout_buffer.get(self.batch_size):
                losses, loss, log = self._loss(chunks, clip_range, clip_range_vf)
                logs.append(log)
                stop = self.target_kl is not None and log["approx_kl"] > 1.5 * self.target_kl
                if stop:
                    if self.verbose >= 1:
                        print(f"Early stopping at epoch {epoch} due to reaching max kl: {log['approx_kl']:.2f}")
                    break
                self._apply_gradient(losses, loss)
            self._n_updates += 1
            if stop:
                break

        for name in logs[0]:
            value = logs[-1][name] if name == "loss" else float(np.mean([log[name] for log in logs]))
            self.logger.record(f"train/{name}", value)
        self._record_update()
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _loss(
        self, chunks: Chunks, clip_range: float, clip_range_vf: float | None
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, float]]:
        """Return the parts of the loss, their weighted sum, and the values to log."""
        values, log_prob, entropy = self.policy.evaluate_chunks(chunks)
        advantages = chunks.advantages
        if self.normalize_advantage and advantages.numel() > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - chunks.old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        if clip_range_vf is not None:
            values = chunks.old_values + (values - chunks.old_values).clamp(-clip_range_vf, clip_range_vf)
        losses = {
            "policy_gradient_loss": -torch.min(advantages * ratio, advantages * clipped).mean(),
            "value_loss": F.mse_loss(chunks.returns, values),
            # Without a closed form, the entropy is estimated as the mean of -log_prob over the samples.
            "entropy_loss": log_prob.mean() if entropy is None else -entropy.mean(),
        }
        loss = (
            losses["policy_gradient_loss"]
            + self.ent_coef * losses["entropy_loss"]
            + self.vf_coef * losses["value_loss"]
        )
        with torch.no_grad():
            log = {name: part.item() for name, part in losses.items()} | {
                "approx_kl": (ratio - 1 - log_ratio).mean().item(),
                "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean().item(),
                "loss": loss.item(),
            }
        return losses, loss, log

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MemoryPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for ``total_timesteps`` environment steps; see SB3's ``PPO.learn``."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
