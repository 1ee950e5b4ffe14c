"""Action masks as a part of the observation: they reach the policy wherever the observation does.

An environment says by ``action_masks()``, as for sb3-contrib's ``MaskablePPO``, which actions are legal. The result has
one bool for each choice of each action, end to end: n for a Discrete action, the sum of ``nvec`` for a MultiDiscrete
one, and two for each binary action, of its 0 and of its 1. The wrappers here put it into the observation. Rollout
buffers, evaluation, checkpoints, traces and exports hold whole observations, so they hold the masks.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from fwagents.sb3.final_observations import change_final
from fwagents.sb3.previous_step import OBSERVATION

MASKS = "action_masks"  # sb3-contrib's name of the method; here also the key of its result in the observation


class VecActionMasks(VecEnvWrapper):
    """Add the environments' ``action_masks()`` to their observations, under the key ``action_masks``.

    A Dict observation gets one more key. Any other observation becomes a Dict with the key ``observation``. The last
    observation of an episode, in ``info["terminal_observation"]``, allows every action, since none follows.

    This wrapper belongs outside ``VecFrameStack`` and ``VecPreviousStep``. No state is kept between steps.

    Args:
        venv: environments that all have the method ``action_masks()``. A natively batched one returns [n_envs, K].

    Raises:
        ValueError: the environments have no such method, the actions are not Discrete, MultiDiscrete or MultiBinary, or
            the observation has the key already. ``reset`` and ``step`` raise it for masks of another size, and for
            masks that leave an action without a legal choice.
    """

    def __init__(self, venv: VecEnv) -> None:
        _require_masks(venv, "the environments")
        super().__init__(venv, masked_space(venv.observation_space, venv.action_space))

    def reset(self) -> VecEnvObs:
        """Reset all environments."""
        obs: VecEnvObs = self._with_masks(self.venv.reset())
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step of every environment."""
        obs, rewards, dones, infos = self.venv.step_wait()
        changed: Any = change_final(infos, dones, lambda final, _: joined(final, all_legal(self.action_space)))
        return self._with_masks(obs), rewards, dones, changed

    def _with_masks(self, obs: Any) -> Any:
        return joined(obs, checked(self.venv.env_method(MASKS), self.action_space, self.num_envs))


class ActionMasks(gym.Wrapper[Any, Any, Any, Any]):
    """``VecActionMasks`` for a single environment.

    Args:
        env: environment with the method ``action_masks()``, which one of its wrappers may have.

    Raises:
        ValueError: as ``VecActionMasks``.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        _require_masks(env, str(env.unwrapped))
        super().__init__(env)
        self.observation_space = masked_space(env.observation_space, env.action_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return joined(obs, self._masks()), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play one step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        masks = all_legal(self.action_space) if terminated or truncated else self._masks()
        return joined(obs, masks), reward, terminated, truncated, info

    def own_part(self, observations: Any) -> Any:
        """Return the environment's own part of observations, without masks and without what ``PreviousStep`` adds."""
        inner = getattr(self.env, "own_part", None)
        own = {key: part for key, part in observations.items() if key != MASKS}
        own = own if isinstance(self.env.observation_space, spaces.Dict) else own[OBSERVATION]
        return own if inner is None else inner(own)

    def _masks(self) -> np.ndarray:
        masks: np.ndarray = checked(get_action_masks(self.env), self.action_space, 1)[0]
        return masks


def choices(space: spaces.Space[Any]) -> list[int]:
    """Return the number of choices of each action.

    Raises:
        ValueError: actions of this space cannot be masked.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        counts: list[int] = space.nvec.tolist()
        return counts
    if isinstance(space, spaces.MultiBinary) and isinstance(space.n, int):
        return [2] * space.n
    raise ValueError(
        f"the action space is {space}, expected Discrete, or MultiDiscrete or MultiBinary of one dimension: "
        "no other actions can be masked"
    )


def masked_space(space: spaces.Space[Any], action_space: spaces.Space[Any]) -> spaces.Dict:
    """Return the space of observations with masks of the actions.

    Raises:
        ValueError: the actions cannot be masked, or the observation has the key of the masks already.
    """
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    if MASKS in own:
        raise ValueError(f"the observation has the key {MASKS!r} already, expected an observation without masks")
    return spaces.Dict({**own, MASKS: spaces.MultiBinary(sum(choices(action_space)))})


def joined(obs: Any, masks: np.ndarray) -> dict[str, Any]:
    """Join observations and masks, both with or both without a batch axis."""
    return {**(obs if isinstance(obs, dict) else {OBSERVATION: obs}), MASKS: masks}


def own_part(obs: Mapping[str, Any]) -> Any:
    """Return the observation without its masks; the part ``observation`` itself if no other part is left."""
    own = {key: part for key, part in obs.items() if key != MASKS}
    return own[OBSERVATION] if list(own) == [OBSERVATION] else own


def own_space(space: spaces.Dict) -> spaces.Space[Any]:
    """Return the space of ``own_part``."""
    own = own_part(space.spaces)
    return spaces.Dict(own) if isinstance(own, dict) else own


def all_legal(action_space: spaces.Space[Any]) -> np.ndarray:
    """Return a mask [K] that allows every action."""
    return np.ones(sum(choices(action_space)), np.int8)


def checked(masks: Any, action_space: spaces.Space[Any], rows: int) -> np.ndarray:
    """Return masks as int8 [rows, K].

    Args:
        masks: bools for each of ``rows`` environments, as ``action_masks()`` returns them.
        action_space: space of one environment's actions.
        rows: number of environments.

    Raises:
        ValueError: the masks are of another size, or leave an action without a legal choice.
    """
    counts = choices(action_space)
    try:
        array = np.asarray(masks, bool)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{MASKS} is {masks!r}, expected {sum(counts)} bools for {action_space}") from error
    if array.size != rows * sum(counts):
        expected = f"{sum(counts)} bools for each of {rows} environments with {action_space}"
        raise ValueError(f"{MASKS} is of shape {array.shape}, expected {expected}")
    array = array.reshape(rows, -1)
    legal = np.logical_or.reduceat(array, [0, *accumulate(counts[:-1])], axis=1)
    if not legal.all():
        row, action = np.argwhere(~legal)[0].tolist()
        raise ValueError(
            f"{MASKS} of environment {row} is {array[row].astype(int).tolist()}, expected at least one legal choice of "
            f"action {action} of {action_space}"
        )
    return array.astype(np.int8)


def random_legal(masks: np.ndarray, action_space: spaces.Space[Any]) -> np.ndarray:
    """Draw uniformly from the legal choices of every action: masks [B, K] -> actions [B, ...].

    The random numbers are the action space's own.
    """
    drawn = np.where(masks, action_space.np_random.random(masks.shape), -1)
    parts = np.split(drawn, [*accumulate(choices(action_space)[:-1])], axis=1)
    return np.stack([part.argmax(1) for part in parts], axis=1).reshape(len(masks), *(action_space.shape or ()))


def _require_masks(env: Any, name: str) -> None:
    if not is_masking_supported(env):
        raise ValueError(f"there is no {MASKS}() in {name}, expected a method that tells which actions are legal")
