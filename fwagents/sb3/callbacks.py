"""Callbacks for runs: what the memory holds, a progress bar, checkpoints that are never half-written."""

import os
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter
from tqdm import tqdm

from fwagents.sb3.on_policy import MemoryRollouts
from fwagents.sb3.policies import MemoryPolicy
from fwagents.sb3.states import MemoryStates


def save_model(model: BaseAlgorithm, path: Path) -> None:
    """Write SB3's zip under a temporary name, sync it, then rename: ``path`` is always a whole file or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            model.save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class CheckpointCallback(BaseCallback):
    """Save ``step_<steps>.zip`` into a folder every so many environment steps.

    Args:
        folder: where to; made if absent.
        every: environment steps between two checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self.folder, self.every = folder, every

    def _on_training_start(self) -> None:
        self.next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            self.next += self.every
            save_model(self.model, self.folder / f"step_{self.num_timesteps:09d}.zip")
        return True


class EpisodeLogCallback(BaseCallback):
    """Write every finished episode (return ``r``, length ``l``, seconds ``t``) to a CSV in the form of SB3's Monitor.

    Args:
        path: the file; lines are added to it if it exists.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_training_start(self) -> None:
        header: dict[str, float | str] = {"t_start": time.time(), "env_id": self.path.parent.parent.name}
        self.writer = ResultsWriter(str(self.path), header, override_existing=not self.path.exists())

    def _on_step(self) -> bool:
        for i in np.flatnonzero(self.locals["dones"]):
            self.writer.write_row(self.locals["infos"][i]["episode"])
        return True

    def _on_training_end(self) -> None:
        self.writer.close()


class MemoryNormCallback(BaseCallback):
    """Log ``memory/<leaf>_norm``: the mean Frobenius norm of each leaf of the actor's state at a rollout's end.

    For fast weights these are ``memory/h_norm`` and ``memory/A_norm``; for an LSTM ``h`` and ``c``.
    """

    def _on_rollout_end(self) -> None:
        if isinstance(self.model.policy, MemoryPolicy):
            state = self._state(self.model.policy)
            for name, leaf in zip(state._fields, state, strict=True):
                self.logger.record(f"memory/{name}_norm", leaf.flatten(1).norm(dim=1).mean().item())

    def _state(self, policy: MemoryPolicy) -> Any:
        model: Any = self.model
        if isinstance(model, MemoryRollouts):
            return cast(MemoryStates, model._last_states).actor
        return policy.lstm_actor.unpack(model._last_lstm_states.pi)

    def _on_step(self) -> bool:
        return True


class ProgressCallback(BaseCallback):
    """A progress bar with the return and success rate of the latest episodes; plain lines where there is no terminal.

    Args:
        total_timesteps: environment steps to come.
        report_every: environment steps between two plain lines.
    """

    def __init__(self, total_timesteps: int, report_every: int) -> None:
        super().__init__()
        self.total, self.report_every = total_timesteps, report_every

    def _on_training_start(self) -> None:
        self.bar = tqdm(total=self.total, unit=" steps", unit_scale=True, disable=None, dynamic_ncols=True)
        self.begun = self.num_timesteps
        self.reported = self.num_timesteps

    def _on_rollout_end(self) -> None:
        results = self._results()
        self.bar.set_postfix(results, refresh=False)
        self.bar.update(min(self.num_timesteps - self.begun, self.total) - self.bar.n)
        if self.bar.disable and self.num_timesteps - self.reported >= self.report_every:
            self.reported = self.num_timesteps
            shown = ", ".join(f"{name} {value}" for name, value in results.items())
            print(f"{self.num_timesteps:,} steps: {shown}", flush=True)

    def _results(self) -> dict[str, Any]:
        episodes, successes = self.model.ep_info_buffer, self.model.ep_success_buffer
        results = {}
        if episodes:
            results["return"] = f"{np.mean([episode['r'] for episode in episodes]):.2f}"
        if successes:
            results["success"] = f"{np.mean(successes):.0%}"
        return results

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.bar.close()
