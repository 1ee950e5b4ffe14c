"""Wrappers that go around any environment."""

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
OBSERVATION = "observation"  # the key of an observation that was no Dict


class PreviousStep(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Shows the last action, the last reward, or both, beside what the environment shows (Duan et al., 2016, RL^2).

    Three parts are added, float32 vectors in this order:

    - `previous_action` (if observed): the action of the last step as `gymnasium.spaces.utils.flatten` writes it. A
      Discrete action is one-hot, a MultiDiscrete one is one-hot vectors end to end, a MultiBinary or a Box action is
      flattened.
    - `previous_reward` (if observed): the reward of the last step, one number.
    - `episode_start`: 1 in the observation that opens an episode and 0 in all others. The other two are zeros where it
      is 1.

    A one-dimensional Box grows by them. Its dtype becomes float32, or float64 where float32 is not sure to hold its
    numbers (float64 and integers of 32 and 64 bits). A Dict gets them as keys. Anything else, images included, becomes
    a Dict of them and the key `observation`.

    Rewards, ends and infos are the wrapped environment's. `fwagents.sb3.VecPreviousStep` does the same to a batch.

    Args:
        env: the environment; its action space is one that Gymnasium can flatten into a vector.
        observe: "action", "reward" or both, in any order.

    Raises:
        ValueError: `observe` is anything else, the actions cannot be flattened into a vector, or the observation is a
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
        """Begin an episode: zeros, and a 1 for its start."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._join(obs, {START: 1}), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play one step and tell its action and its reward, in the last observation of an episode too."""
        # Encoded before the step, which may write into the action.
        told: dict[str, Any] = {ACTION: flatten(self.env.action_space, action)} if ACTION in self._parts else {}
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._join(obs, {**told, REWARD: reward}), reward, terminated, truncated, info

    def own_part(self, observations: Any) -> Any:
        """The observation of the environment itself.

        Args:
            observations: [..., D], or a dict of arrays [..., *shape], as this wrapper gives them.
        """
        space = self.env.observation_space
        if isinstance(self.observation_space, spaces.Box):
            return observations[..., : flatdim(space)]
        own = {key: part for key, part in observations.items() if key not in self._parts}
        return own if isinstance(space, spaces.Dict) else own[OBSERVATION]

    def _join(self, obs: Any, told: Mapping[str, Any]) -> Any:
        """An observation with all parts; those that are not told are 0."""
        parts = {name: np.zeros(space.shape, np.float32) for name, space in self._parts.items()}
        for name, part in parts.items():
            part[:] = told.get(name, 0)
        if isinstance(self.observation_space, spaces.Box):
            return np.concatenate([obs, *parts.values()], dtype=self.observation_space.dtype)
        return {**(obs if isinstance(self.env.observation_space, spaces.Dict) else {OBSERVATION: obs}), **parts}


def _parts(action_space: spaces.Space[Any], observe: Sequence[str]) -> dict[str, spaces.Box]:
    """The spaces of the parts that are added, by name and in order."""
    parts = {}
    if "action" in observe:
        if not action_space.is_np_flattenable:
            raise ValueError(f"the action space is {action_space}, expected one that Gymnasium flattens into a vector")
        flat: Any = flatten_space(action_space)
        # Where a bound excludes 0, it is moved there: an episode opens with zeros.
        parts[ACTION] = _box(np.minimum(flat.low, 0), np.maximum(flat.high, 0), np.float32)
    if "reward" in observe:
        parts[REWARD] = _box(np.array([-np.inf]), np.array([np.inf]), np.float32)
    return {**parts, START: _box(np.zeros(1), np.ones(1), np.float32)}


def _grown(space: spaces.Space[Any], parts: Mapping[str, spaces.Box]) -> spaces.Space[Any]:
    """A one-dimensional Box with the parts at its end; any other space as a Dict with the parts as keys."""
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
