"""The last action and the last reward as a part of the observation, for a batch of environments."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten_space
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from fwagents.sb3.final_observations import change_final
from fwagents.sb3.spaces import FLAT, check_start

OBSERVE = (["action"], ["reward"], ["action", "reward"], ["reward", "action"])
# The same names as in envs/wrappers.py, which this package does not import.
ACTION, REWARD, START = "previous_action", "previous_reward", "episode_start"
OBSERVATION = "observation"


class VecPreviousStep(VecEnvWrapper):
    """Add the last action, the last reward, or both, to the observations (Duan et al., 2016, RL^2).

    The observations are the same as with ``fwagents.envs.wrappers.PreviousStep`` around each environment; its docstring
    describes them. An observation that opens an episode holds zeros and a 1 for the start. This includes the
    observation that SB3 returns at the end of an episode. ``info["terminal_observation"]`` holds the last action and
    reward.

    This wrapper belongs inside ``VecNormalize``. The added reward is then the environment's own, in training and in
    evaluation, and ``VecNormalize`` scales it to unit variance as a part of the observation. Outside, the added reward
    would be divided by ``VecNormalize`` in training but not in evaluation.

    The only loop over environments is the loop over those whose episode has just ended. No state is kept between steps.

    Args:
        venv: the environments, not behind a ``VecNormalize``.
        observe: "action", "reward" or both, in any order.

    Raises:
        ValueError: ``observe`` is anything else, the environments are behind a ``VecNormalize``, SB3 does not support
            the action space, or the observation is a Dict that already has one of the added keys.
    """

    def __init__(self, venv: VecEnv, observe: Sequence[str] = ("action", "reward")) -> None:
        check_observe(observe)
        if is_vecenv_wrapped(venv, VecNormalize):
            raise ValueError(
                "the environments are behind a VecNormalize, expected VecNormalize(VecPreviousStep(venv)): "
                "the reward that is told is the environment's own"
            )
        parts = _parts(venv.action_space, observe)
        super().__init__(venv, _grown(venv.observation_space, parts))
        self._names = list(parts)
        self._cuts = np.cumsum([space.shape[0] for space in parts.values()])
        self._one_hot = _one_hot_columns(venv.action_space)
        self._opening = np.zeros(self._cuts[-1], np.float32)
        self._opening[-1] = 1

    def reset(self) -> VecEnvObs:
        """Reset all environments; the added parts are zeros, and a 1 for the start."""
        obs: VecEnvObs = self._join(self.venv.reset(), np.tile(self._opening, (self.num_envs, 1)))
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Send every environment its action."""
        self._told = np.zeros((self.num_envs, len(self._opening)), np.float32)
        if ACTION in self._names:
            self._told[:, : self._cuts[0]] = self._encode(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step of every environment; add its action and its reward to the observation."""
        obs, rewards, dones, infos = self.venv.step_wait()
        told = self._told
        if REWARD in self._names:
            told[:, -2] = rewards
        changed: Any = change_final(infos, dones, lambda final, i: self._join(final, told[i]))
        opened = np.where(dones[:, None], self._opening, told) if dones.any() else told
        return self._join(obs, opened), rewards, dones, changed

    def _encode(self, actions: np.ndarray) -> np.ndarray:
        """Return actions [B, ...] as vectors [B, K]."""
        flat = np.asarray(actions).reshape(self.num_envs, -1)
        if self._one_hot is None:
            return flat
        part, value = self._one_hot
        same: np.ndarray = flat[:, part] == value
        return same

    def _join(self, obs: Any, told: np.ndarray) -> Any:
        """Join observations [..., D], or a dict of them, with the added parts ``told`` [..., K]."""
        if isinstance(self.observation_space, spaces.Box):
            return np.concatenate([obs, told], axis=-1, dtype=self.observation_space.dtype)
        own = obs if isinstance(self.venv.observation_space, spaces.Dict) else {OBSERVATION: obs}
        return {**own, **dict(zip(self._names, np.split(told, self._cuts[:-1], axis=-1), strict=True))}


def check_observe(observe: Sequence[str]) -> None:
    """Raise ValueError unless ``observe`` lists the action, the reward or both."""
    if list(observe) not in OBSERVE:
        raise ValueError(f"observe is {observe!r}, expected a list of 'action', 'reward' or both")


def _parts(action_space: spaces.Space[Any], observe: Sequence[str]) -> dict[str, spaces.Box]:
    """Return the spaces of the added parts, by name and in order."""
    parts = {}
    if "action" in observe:
        if not isinstance(action_space, FLAT):
            expected = ", ".join(kind.__name__ for kind in FLAT)
            raise ValueError(f"the action space is {action_space}, expected {expected}")
        check_start("the action space", action_space)
        flat: Any = flatten_space(action_space)
        # A bound that excludes 0 is moved to 0, since an episode opens with zeros.
        parts[ACTION] = _box(np.minimum(flat.low, 0), np.maximum(flat.high, 0), np.float32)
    if "reward" in observe:
        parts[REWARD] = _box(np.array([-np.inf]), np.array([np.inf]), np.float32)
    return {**parts, START: _box(np.zeros(1), np.ones(1), np.float32)}


def _one_hot_columns(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the action part and the value [K] that each column encodes; None if actions are not one-hot."""
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return None
    counts = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])


def _grown(space: spaces.Space[Any], parts: Mapping[str, spaces.Box]) -> spaces.Space[Any]:
    """Append the parts to a one-dimensional Box; turn any other space into a Dict with the parts as keys."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        boxes = [space, *parts.values()]
        low, high = (np.concatenate([getattr(box, side) for box in boxes]) for side in ("low", "high"))
        return _box(low, high, np.result_type(space.dtype, np.float32))
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    for key in parts:
        if key in own:
            raise ValueError(f"the observation has the key {key!r}, expected none of {', '.join(parts)}")
    return spaces.Dict({**own, **parts})


def _box(low: np.ndarray, high: np.ndarray, dtype: Any) -> spaces.Box:
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
