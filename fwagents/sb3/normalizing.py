"""Normalisation of observations and rewards to unit variance."""

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize


def normalized(env: VecEnv, keys: Sequence[str], **options: Any) -> VecNormalize:
    """Wrap environments so that rewards, and observations that are vectors, have unit variance.

    Images are not normalised: the policy recognises them by their space, and its encoder scales them.

    Args:
        env: vectorized environment.
        keys: parts of a Dict observation to normalize; none for every vector.
        options: options of ``VecNormalize``.

    Raises:
        ValueError: a key names no part of the observation that can be normalized.
    """
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    vectors = [name for name, part in parts.items() if _is_vector(part)]
    for key in keys:
        if key not in vectors:
            none = f"none: {f'no part of {space} is a vector' if parts else f'{space} has no parts'}"
            expected = f"some of {', '.join(vectors)}" if vectors else none
            raise ValueError(f"norm_obs_keys has {key!r}, expected {expected}")
    norm_obs = bool(vectors) if parts else _is_vector(space)
    chosen = (list(keys) or vectors) if vectors else None
    return VecNormalize(env, norm_obs=norm_obs, norm_obs_keys=chosen, **options)


def _is_vector(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and not is_image_space(space)
