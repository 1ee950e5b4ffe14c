"""Normalisation of observations as in SB3's ``VecNormalize``, stored as plain numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize

Statistics = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Normalization:
    """Normalises observations to mean 0 and variance 1, and clips them.

    Attributes:
        mean: mean of every normalised entry of a dict observation, or of the whole observation under the name "".
        variance: variance under the same names.
        epsilon: added to the variance.
        clip: largest absolute value of the result.
    """

    mean: Statistics
    variance: Statistics
    epsilon: float
    clip: float

    @classmethod
    def of(cls, normalizer: VecNormalize) -> "Normalization | None":
        """Return the normalisation of a ``VecNormalize``; None if it leaves observations unchanged."""
        if not normalizer.norm_obs:
            return None
        parts: Any = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {"": normalizer.obs_rms}
        return cls(
            {key: np.asarray(part.mean) for key, part in parts.items()},
            {key: np.asarray(part.var) for key, part in parts.items()},
            normalizer.epsilon,
            normalizer.clip_obs,
        )

    def require_fit(self, space: spaces.Space[Any]) -> None:
        """Raise ValueError unless the statistics are finite float64 arrays of the observations' shapes."""
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        if set(self.mean) != set(self.variance) or not set(self.mean) <= set(parts):
            raise ValueError(
                f"normalization has means of {sorted(self.mean)} and variances of {sorted(self.variance)}, expected "
                f"the same parts of the observation, of {sorted(parts)}"
            )
        for name, statistics in (("mean", self.mean), ("variance", self.variance)):
            for key, value in statistics.items():
                shape = parts[key].shape
                if value.shape != shape:
                    raise ValueError(
                        f"normalization has a {name} of shape {value.shape}, expected the observation's, {shape}"
                    )
                if value.dtype != np.float64:
                    raise ValueError(f"normalization has a {name} of dtype {value.dtype}, expected float64")
                if not np.isfinite(value).all() or (name == "variance" and value.min(initial=0) < 0):
                    raise ValueError(
                        f"normalization has a {name} of {value}, expected finite numbers, no variance below 0"
                    )

    def __call__(self, obs: Any) -> Any:
        """Normalise an observation: an array, a tensor or a dict of them, with or without a batch dimension."""
        if isinstance(obs, dict):
            return {key: self._part(key, value) if key in self.mean else value for key, value in obs.items()}
        return self._part("", obs)

    def _part(self, key: str, value: Any) -> Any:
        scale = np.sqrt(self.variance[key] + self.epsilon)
        if isinstance(value, torch.Tensor):
            mean, deviation = torch.from_numpy(self.mean[key]), torch.from_numpy(scale)
            return ((value.double() - mean) / deviation).clamp(-self.clip, self.clip).float()
        return np.clip((value - self.mean[key]) / scale, -self.clip, self.clip).astype(np.float32)
