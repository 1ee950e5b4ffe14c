"""A2C with any memory core."""

from typing import Any, TypeVar

import torch.nn.functional as F
from stable_baselines3 import A2C
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from fwagents.sb3.on_policy import MemoryRollouts
from fwagents.sb3.policies import MemoryPolicy

Self = TypeVar("Self", bound="MemoryA2C")


class MemoryA2C(MemoryRollouts, A2C):
    """Synchronous advantage actor-critic (Mnih et al., 2016) for policies with a memory.

    SB3's ``A2C`` with the same arguments, ``learn``, ``save``, ``load`` and ``predict``, and:

    Args:
        policy: "MemoryPolicy", "MemoryCnnPolicy", "MemoryMultiInputPolicy", or a class.
        env: environment, or the id of one.
        learning_rate: step size, or a function of the remaining progress.
        n_steps: steps of each environment per rollout, and per update.
        chunk_length: steps over which gradients flow back, a divisor of ``n_steps``; None is ``n_steps``.
        **kwargs: every other argument of SB3's ``A2C``; ``use_sde`` is refused.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """

    def __init__(
        self,
        policy: str | type[MemoryPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 16,
        *,
        chunk_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.chunk_length = chunk_length
        super().__init__(policy, env, learning_rate, n_steps, **kwargs)

    def train(self) -> None:
        """Update the policy on the rollout, once."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        chunks = self.rollout_buffer.chunks()
        values, log_prob, entropy = self.policy.evaluate_chunks(chunks)
        advantages = chunks.advantages
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        losses = {
            "policy_loss": -(advantages * log_prob).mean(),
            "value_loss": F.mse_loss(chunks.returns, values),
            # Without a closed form, the entropy is estimated as the mean of -log_prob over the samples.
            "entropy_loss": log_prob.mean() if entropy is None else -entropy.mean(),
        }
        self._apply_gradient(
            losses,
            losses["policy_loss"] + self.ent_coef * losses["entropy_loss"] + self.vf_coef * losses["value_loss"],
        )

        self._n_updates += 1
        for name, part in losses.items():
            self.logger.record(f"train/{name}", part.item())
        self._record_update()

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "MemoryA2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for ``total_timesteps`` environment steps; see SB3's ``A2C.learn``."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
