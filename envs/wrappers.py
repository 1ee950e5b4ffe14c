"""Wrappers for any environment."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten, flatten_space
from gymnasium.utils import RecordConstructorArgs

OBSERVE = (["action"], ["reward"], ["action", "reward"], ["reward", "action"])
ACTION, REWARD, START = "previous_action", "previous_reward", "episode_start"
OBSERVATION = "observation"  # key of an observation that was not a Dict


class PreviousStep(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds the last action, the last reward, or both, to the observation (Duan et al., 2016, RL^2).

    The added parts are float32 vectors in this order:

    - `previous_action` (if observed): the action of the last step, encoded by `gymnasium.spaces.utils.flatten`. A
      Discrete action is one-hot, a MultiDiscrete action is a concatenation of one-hot vectors, a MultiBinary or a Box
      action is flattened.
    - `previous_reward` (if observed): the reward of the last step, one number.
    - `episode_start`: 1 in the observation that opens an episode, where the other two parts are zero, else 0.

    A one-dimensional Box is extended by the parts. Its dtype becomes float32, or float64 if float32 may not hold its
    numbers (float64 and integers of 32 and 64 bits). A Dict gets the parts as keys. Any other observation, such as an
    image, becomes a Dict with the parts and the key `observation`.

    Rewards, ends and infos are unchanged. `fwagents.sb3.VecPreviousStep` is the same wrapper for a batch.

    Args:
        env: environment whose action space Gymnasium can flatten into a vector.
        observe: "action", "reward" or both, in any order.

    Raises:
        ValueError: `observe` has another value, the actions cannot be flattened into a vector, or the observation is a
            Dict that has one of the keys.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], observe: Sequence[str] = ("action", "reward")) -> None:
        if list(observe) not in OBSERVE:
            raise ValueError(f"observe is {observe!r}, expected a list of 'action', 'reward' or both")
        RecordConstructorArgs.__init__(self, observe=list(observe))
        gymnasium.Wrapper.__init__(self, env)
        self._parts = _parts(env.action_space, observe)
        self.observation_space = _grown(env.observation_space, self._parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the added parts are zero, except that `episode_start` is 1."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._join(obs, {START: 1}), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play one step and add its action and reward to the observation, including the last one of an episode."""
        # The action is encoded before the step, which may change it in place.
        told: dict[str, Any] = {ACTION: flatten(self.env.action_space, action)} if ACTION in self._parts else {}
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._join(obs, {**told, REWARD: reward}), reward, terminated, truncated, info

    def own_part(self, observations: Any) -> Any:
        """Return the environment's own part of the observations.

        Args:
            observations: observations of this wrapper, [..., D] or a dict of arrays [..., *shape].
        """
        space = self.env.observation_space
        if isinstance(self.observation_space, spaces.Box):
            return observations[..., : flatdim(space)]
        own = {key: part for key, part in observations.items() if key not in self._parts}
        return own if isinstance(space, spaces.Dict) else own[OBSERVATION]

    def _join(self, obs: Any, told: Mapping[str, Any]) -> Any:
        """Join an observation and all parts; parts that are not in `told` are 0."""
        parts = {name: np.zeros(space.shape, np.float32) for name, space in self._parts.items()}
        for name, part in parts.items():
            part[:] = told.get(name, 0)
        if isinstance(self.observation_space, spaces.Box):
            return np.concatenate([obs, *parts.values()], dtype=self.observation_space.dtype)
        return {**(obs if isinstance(self.env.observation_space, spaces.Dict) else {OBSERVATION: obs}), **parts}


def _parts(action_space: spaces.Space[Any], observe: Sequence[str]) -> dict[str, spaces.Box]:
    """Return the spaces of the added parts by name, in order."""
    parts = {}
    if "action" in observe:
        if not action_space.is_np_flattenable:
            raise ValueError(f"the action space is {action_space}, expected one that Gymnasium flattens into a vector")
        flat: Any = flatten_space(action_space)
        # A bound that excludes 0 is moved to 0, since an episode opens with zeros.
        parts[ACTION] = _box(np.minimum(flat.low, 0), np.maximum(flat.high, 0), np.float32)
    if "reward" in observe:
        parts[REWARD] = _box(np.array([-np.inf]), np.array([np.inf]), np.float32)
    return {**parts, START: _box(np.zeros(1), np.ones(1), np.float32)}


def _grown(space: spaces.Space[Any], parts: Mapping[str, spaces.Box]) -> spaces.Space[Any]:
    """Append the parts to a one-dimensional Box; extend any other space to a Dict with the parts as keys."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        boxes = [space, *parts.values()]
        low, high = (np.concatenate([getattr(box, side) for box in boxes]) for side in ("low", "high"))
        return _box(low, high, np.result_type(space.dtype, np.float32))
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    for key in parts:
        if key in own:
            raise ValueError(f"the observation has the key {key!r}, expected none of {', '.join(parts)}")
    return spaces.Dict({**own, **parts})


def _box(low: npt.NDArray[Any], high: npt.NDArray[Any], dtype: Any) -> spaces.Box:
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
