"""Callbacks for runs: evaluation, finished episodes, norms of the memory's state, a progress bar.

Callbacks with a state have ``get_state`` and ``set_state``, so that a run can be resumed; see ``checkpoints``.
"""

import copy
import os
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from fwagents.files import naming
from fwagents.sb3.checkpoints import save_model
from fwagents.sb3.env_states import get_env_state, set_env_state
from fwagents.sb3.on_policy import MemoryRollouts
from fwagents.sb3.policies import MemoryPolicy
from fwagents.sb3.states import MemoryStates


class EvaluationCallback(EvalCallback):
    """SB3's ``EvalCallback`` that plays the same episodes every time, and never leaves a file half-written.

    Args:
        env: environments to play in.
        seed: seed of their episodes.
        episodes: number of episodes.
        every: environment steps between two evaluations.
        folder: folder for ``evaluations.npz`` and ``best_model.zip``.
        num_envs: number of environments that the agent trains in.
    """

    REMEMBERED = (
        *("n_calls", "best_mean_reward", "last_mean_reward", "evaluations_timesteps", "evaluations_results"),
        *("evaluations_length", "evaluations_successes"),
    )

    def __init__(self, env: VecEnv, seed: int, episodes: int, every: int, folder: Path, num_envs: int) -> None:
        frequency = max(1, every // num_envs)
        super().__init__(env, n_eval_episodes=episodes, eval_freq=frequency, log_path=str(folder), verbose=0)
        self.seed, self.folder = seed, folder
        # SB3 overwrites its file in place. It writes to this path instead, and the complete file is then renamed.
        self.log_path: str | None = str(folder / ".evaluations.npz")

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq:
            return True
        self.eval_env.seed(self.seed)
        best = self.best_mean_reward
        with naming(self.folder / "evaluations.npz"):
            go_on = super()._on_step()
        os.replace(cast(str, self.log_path), self.folder / "evaluations.npz")
        if self.last_mean_reward >= best:  # on a tie keep the later model, which has trained longer
            save_model(self.model, self.folder / "best_model.zip")
        return go_on

    def get_state(self) -> dict[str, Any]:
        """Return the results so far, and the environments' state, which the next evaluation continues."""
        results = {name: copy.copy(getattr(self, name)) for name in self.REMEMBERED}
        return {"results": results, "env": get_env_state(self.eval_env)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the results and the environments' state."""
        for name, value in state["results"].items():
            setattr(self, name, value)
        set_env_state(self.eval_env, state["env"])


class EpisodeLogCallback(BaseCallback):
    """Write every finished episode (return ``r``, length ``l``, seconds ``t``) to a CSV in the form of SB3's Monitor.

    Args:
        path: the file.
        env_id: environment id for the file's first line.
    """

    def __init__(self, path: Path, env_id: str) -> None:
        super().__init__()
        self.path, self.env_id = path, env_id
        self.resumed = False

    def get_state(self) -> dict[str, Any]:
        """Return the size of the file, with all rows written so far."""
        with naming(self.path):
            self.writer.file_handler.flush()
        return {"bytes": self.path.stat().st_size}

    def set_state(self, state: dict[str, Any]) -> None:
        """Cut off the rows written after ``get_state``. A shorter file is cut after its last whole line."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            kept = file.read(state["bytes"])
            end = kept.rfind(b"\n") + 1
            file.truncate(end)
        self.resumed = kept[:end].count(b"\n") > 1  # the header is two lines

    def _on_training_start(self) -> None:
        header: dict[str, float | str] = {"t_start": time.time(), "env_id": self.env_id}
        self.writer = ResultsWriter(str(self.path), header, override_existing=not self.resumed)

    def _on_step(self) -> bool:
        with naming(self.path):
            for i in np.flatnonzero(self.locals["dones"]):
                self.writer.write_row(self.locals["infos"][i]["episode"])
        return True

    def _on_training_end(self) -> None:
        self.writer.close()


class MemoryNormCallback(BaseCallback):
    """Log ``memory/<leaf>_norm``: the mean Frobenius norm of each leaf of the actor's state at a rollout's end.

    For ``rotary_fast_weights`` these are ``memory/recent_norm``, ``memory/W_norm`` and ``memory/t_norm``; for an LSTM
    ``h`` and ``c``.
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


class LogCallback(BaseCallback):
    """Write a line of the log every ``every`` rollouts, counted over the whole run, also when it was resumed.

    SB3's ``log_interval`` counts from the last resume. This callback must follow the callbacks that record values.

    Args:
        every: rollouts between two lines.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        rollouts = self.num_timesteps // (model.n_steps * model.n_envs)
        if rollouts % self.every == 0:
            model.dump_logs(rollouts)

    def _on_step(self) -> bool:
        return True


class ProgressCallback(BaseCallback):
    """A progress bar with the return and success rate of the latest episodes; without a terminal, plain lines.

    Args:
        total_timesteps: environment steps of the whole run.
        report_every: environment steps between two plain lines.
    """

    def __init__(self, total_timesteps: int, report_every: int) -> None:
        super().__init__()
        self.total, self.report_every = total_timesteps, report_every

    def _on_training_start(self) -> None:
        self.reported = self.num_timesteps
        self.bar = tqdm(
            total=self.total,
            initial=self.num_timesteps,
            unit=" steps",
            unit_scale=True,
            disable=None,
            dynamic_ncols=True,
        )

    def _on_rollout_end(self) -> None:
        results = self._results()
        self.bar.set_postfix(results, refresh=False)
        self.bar.update(min(self.num_timesteps, self.total) - self.bar.n)
        if self.bar.disable and self.num_timesteps - self.reported >= self.report_every:
            self.reported = self.num_timesteps
            shown = ", ".join(f"{name} {value}" for name, value in results.items())
            print(f"{self.num_timesteps:,} steps: {shown}", flush=True)

    def _results(self) -> dict[str, Any]:
        episodes, successes = self.model.ep_info_buffer, self.model.ep_success_buffer
        results = {}
        if episodes:
            shown = f"training return, last {len(episodes)} episodes,"
            results[shown] = f"{np.mean([episode['r'] for episode in episodes]):.2f}"
        if successes:
            results["success"] = f"{np.mean(successes):.0%}"
        return results

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.bar.close()
