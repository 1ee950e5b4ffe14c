"""Pictures of the memory in TensorBoard while an agent trains: its attention, a film of an episode, histograms."""

import io
import time
from typing import Any, cast

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from fwagents.cores.base import positive_int
from fwagents.figures import attention_matrix
from fwagents.figures.style import png
from fwagents.inspection.attention import has_fast_memory
from fwagents.inspection.episodes import trace_episodes
from fwagents.inspection.film import action_names_of, as_shown, film
from fwagents.inspection.traces import Array, Trace
from fwagents.inspection.video import gif
from fwagents.sb3.board import board_writer
from fwagents.sb3.policies import MemoryPolicy

SHARE = 0.015  # share of the run's time that logs may take
FIRST = 1.0  # seconds that the first log is assumed to take
FRAMES = 40  # largest number of frames in a film; longer episodes are shown every n-th step
FPS = 4.0


class MemoryLogCallback(BaseCallback):
    """Play an episode at intervals, and log its memory to TensorBoard.

    The log has these entries under ``memory/``: ``attention``, the attention matrix (gradients for cores without a fast
    memory); ``film``, if the environment renders pictures; and two histograms. ``units`` holds the core's outputs, and
    ``looks_back`` how many steps back the reads of a fast memory look (``looks_back/head_1`` and so on for a memory
    with heads). Training itself does not change.

    Logging takes at most 1.5 % of the run's time: the next log waits until the time spent so far, plus the cost of the
    previous log, fits into that share. A last log follows when training ends, if it fits or if there was none before.

    Args:
        env: environment to play in, made with ``render_mode="rgb_array"`` for a film.
        seed: seed of the episode, the same for every log.
        every: least number of environment steps between two logs.

    Attributes:
        drawn: number of logs.
        spent: seconds that they took.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int, every: int) -> None:
        super().__init__()
        self.env, self.seed, self.every = env, seed, positive_int("every", every)
        self.last, self.drawn, self.spent, self.cost = 0, 0, 0.0, FIRST

    def get_state(self) -> dict[str, Any]:
        """Return the environment step of the last log."""
        return {"last": self.last}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the environment step of the last log."""
        self.last = state["last"]

    def _on_training_start(self) -> None:
        self.begun = time.perf_counter()
        self.action_names = action_names_of(self.env)

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self.last >= self.every and self._earned():
            self._write()

    def _on_training_end(self) -> None:
        if self.num_timesteps > self.last and (self._earned() or not self.drawn):
            self._write()
        self.env.close()

    def _earned(self) -> bool:
        return self.spent + self.cost <= SHARE * (time.perf_counter() - self.begun)

    def _on_step(self) -> bool:
        return True

    def _write(self) -> None:
        begun = time.perf_counter()
        self.last = self.num_timesteps
        policy = self.model.policy
        writer = board_writer(self.logger)
        if writer is not None and isinstance(policy, MemoryPolicy):
            normalizer = self.model.get_vec_normalize_env()
            seen = trace_episodes(
                policy,
                self.env,
                seed=self.seed,
                normalize_obs=normalizer.normalize_obs if isinstance(normalizer, VecNormalize) else None,
                growth=False,
                attribution=not has_fast_memory(policy.actor_core),
            )
            self._add(writer, seen)
            writer.flush()  # the last log comes after the logger's last dump, which flushes all others
        self.cost = time.perf_counter() - begun
        self.spent += self.cost
        self.drawn += 1

    def _add(self, writer: SummaryWriter, seen: Trace) -> None:
        _add_image(writer, "memory/attention", png(attention_matrix(seen)), self.num_timesteps)
        if seen.screens is not None and seen.screens.dtype == np.uint8:
            pictures = film(
                as_shown(seen, self.env), action_names=self.action_names, every=-(-len(seen.start) // FRAMES)
            )
            _add_image(writer, "memory/film", gif(pictures, FPS), self.num_timesteps)
        writer.add_histogram("memory/units", seen.hidden, self.num_timesteps)
        if seen.attention is not None:
            heads = seen.parts()[:, 0].swapaxes(0, 1)
            for place, sizes in enumerate(heads):
                name = "looks_back" if len(heads) == 1 else f"looks_back/head_{place + 1}"
                _add_looks_back(writer, f"memory/{name}", sizes, self.num_timesteps)


def _add_image(writer: SummaryWriter, tag: str, encoded: bytes, step: int) -> None:
    """Add a PNG or GIF as encoded: ``add_image`` would encode it again, and ``add_video`` needs another package."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        size = {"width": image.width, "height": image.height, "colorspace": 3}
    value = Summary.Value(tag=tag, image=Summary.Image(**size, encoded_image_string=encoded))
    file_writer: Any = cast(Any, writer)._get_file_writer()
    file_writer.add_summary(Summary(value=[value]), step)


def _add_looks_back(writer: SummaryWriter, tag: str, sizes: Array, step: int) -> None:
    """Add a histogram of the ages of what an episode's reads look at, weighted by the sizes of the parts [T, T]."""
    ages = np.arange(len(sizes))
    counts = np.array([np.trace(sizes, -age) for age in ages.tolist()])
    if not counts.sum() > 0:
        return
    writer.add_histogram_raw(
        tag,
        min=-0.5,
        max=len(sizes) - 0.5,
        num=float(counts.sum()),
        sum=float((counts * ages).sum()),
        sum_squares=float((counts * ages**2).sum()),
        bucket_limits=(ages + 0.5).tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )
