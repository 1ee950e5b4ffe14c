"""Checkpoints from which a run resumes exactly where it stopped.

A checkpoint is SB3's own zip with one more entry, ``resume.pt``: the states of the random generators, the environments,
the memory and the callbacks. It is saved between two rollouts.

An agent trained with ``VecNormalize`` needs its statistics, so they are stored in the same zip.
"""

import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from fwagents.files import check_zip, replacing
from fwagents.sb3.env_states import get_env_state, set_env_state

T = TypeVar("T")

ENTRY = "resume.pt"
NORMALIZER = "vecnormalize.pkl"  # the format of VecNormalize.save
# Attributes that SB3's zip leaves out because they can be large, or that loading resets.
CARRIED = ("_last_obs", "_last_episode_starts", "_last_states", "_last_lstm_states", "_last_original_obs")


class Resumable(Protocol):
    """A callback whose state belongs in a checkpoint."""

    def get_state(self) -> dict[str, Any]:
        """Return the state that ``set_state`` needs to resume from here."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from a state that ``get_state`` returned."""


def save_model(model: BaseAlgorithm, path: Path, resume: dict[str, Any] | None = None) -> None:
    """Write a model and the data needed to resume it. ``path`` is a complete file or absent at any time."""
    with replacing(path) as file:
        model.save(file)
        normalizer = model.get_vec_normalize_env()
        with zipfile.ZipFile(file, "a") as archive:
            if normalizer is not None:
                archive.writestr(NORMALIZER, pickle.dumps(normalizer))
            if resume is not None:
                with archive.open(ENTRY, "w", force_zip64=True) as entry:
                    torch.save(resume, entry)


def load_normalizer(path: Path, env: VecEnv) -> VecEnv:
    """Wrap ``env`` in the ``VecNormalize`` of a saved model, with fixed statistics; return ``env`` if it had none.

    Rewards are not normalised. The statistics are a pickle, as in SB3: load only files that you trust.
    """
    with zipfile.ZipFile(path) as archive:
        if NORMALIZER not in archive.namelist():
            return env
        normalizer: VecNormalize = pickle.loads(archive.read(NORMALIZER))
    normalizer.set_venv(env)
    normalizer.training = normalizer.norm_reward = False
    return normalizer


def capture(model: BaseAlgorithm, callbacks: list[BaseCallback]) -> dict[str, Any]:
    """Return the state of a run besides its model: random generators, environments, memory, callbacks."""
    assert model.env is not None
    return {
        "carried": {name: getattr(model, name) for name in CARRIED if hasattr(model, name)},
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 -- the generator that SB3 uses
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "env": get_env_state(model.env),
        # Values recorded since the last line of the log, for the next line.
        "log": [dict(kept) for kept in _pending(model)],
        "callbacks": [cast(Resumable, c).get_state() if hasattr(c, "get_state") else None for c in callbacks],
    }


def restore(model: BaseAlgorithm, callbacks: list[BaseCallback], state: dict[str, Any]) -> bool:
    """Restore the state that ``capture`` returned.

    Args:
        model: model loaded from the same checkpoint, with its environments and logger set.
        callbacks: callbacks made with the same arguments, in the same order, as the captured ones.
        state: the captured state.

    Returns:
        Whether the run continues exactly as if it had not stopped. If False, the environments could not give their
        state, and new episodes begin.
    """
    assert model.env is not None
    set_env_state(model.env, state["env"])
    for callback, kept in zip(callbacks, state["callbacks"], strict=True):
        if kept is not None:
            cast(Resumable, callback).set_state(kept)
    for pending, kept in zip(_pending(model), state["log"], strict=True):
        pending.update(kept)
    for name, value in state["carried"].items():
        setattr(model, name, value)
    exact: bool = state["env"]["exact"]
    if not exact:
        model._last_obs = None  # SB3 then begins new episodes
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    return exact


def read_resume(path: Path) -> dict[str, Any]:
    """Return the resume entry of a checkpoint.

    Raises:
        ValueError: the file is not a complete checkpoint.
    """
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive, archive.open(ENTRY) as entry:
            # The checkpoint is the user's own, and SB3's part of it is a pickle already.
            state: dict[str, Any] = torch.load(entry, weights_only=False)
            return state
    except Exception as error:  # the checksums do not cover the zip's own headers, which fail in many ways
        raise ValueError(f"{path} is not a whole checkpoint: {_in_words(error)}") from error


def newest_whole(folder: Path, load: Callable[[Path], T]) -> tuple[T, dict[str, Any]]:
    """Return the model and the resume entry of the newest complete checkpoint in a folder.

    Every newer checkpoint that is damaged gives a warning.

    Args:
        folder: folder of the checkpoints.
        load: function that loads the model of a checkpoint.

    Raises:
        FileNotFoundError: there is no complete checkpoint.
    """
    for path in sorted(folder.glob("step_*.zip"), reverse=True):
        try:
            state = read_resume(path)
        except ValueError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
            continue
        try:
            return load(path), state
        except Exception as error:
            warnings.warn(f"skipped: {path} cannot be loaded: {_in_words(error)}", stacklevel=2)
    raise FileNotFoundError(f"{folder} has no whole checkpoint to resume from")


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__


class CheckpointCallback(BaseCallback):
    """Save ``step_<steps>.zip`` into a folder, before the first rollout and then every ``every`` environment steps.

    Args:
        folder: folder for the checkpoints; made if absent.
        every: environment steps between two checkpoints.
        callbacks: callbacks whose state is saved too.
    """

    def __init__(self, folder: Path, every: int, callbacks: list[BaseCallback]) -> None:
        super().__init__()
        self.folder, self.every, self.callbacks = folder, every, callbacks

    def _on_rollout_start(self) -> None:
        model: Any = self.model
        before = self.num_timesteps - model.n_steps * model.n_envs
        if before < 0 or self.num_timesteps // self.every > before // self.every:
            path = self.folder / f"step_{self.num_timesteps:012d}.zip"
            save_model(self.model, path, capture(self.model, self.callbacks))

    def _on_step(self) -> bool:
        return True


def _pending(model: BaseAlgorithm) -> list[dict[str, Any]]:
    logger = model.logger
    return [logger.name_to_value, logger.name_to_count, logger.name_to_excluded]
