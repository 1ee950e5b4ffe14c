"""Many games as a natively batched Gymnasium `VectorEnv`, without a loop over environments.

Each step is identical to `gymnasium.vector.SyncVectorEnv` over the single environment with the same seeds and actions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .arguments import one_of, whole_number
from .draws import new_key
from .game import ALL, Game, Index, Screens, State
from .render import picture, text

Bools = npt.NDArray[np.bool_]


class GameVectorEnv(VectorEnv[Screens, "npt.NDArray[np.integer[Any]]", "npt.NDArray[Any]"]):
    """A batch of `num_envs` games with the rules of the single environment.

    All returned arrays are new memory that the environment does not change later.

    Args:
        game: the class of the game.
        num_envs: size of the batch.
        render_mode: None, "rgb_array" or "ansi".
        autoreset_mode: reset of an environment whose episode has ended: `NEXT_STEP` resets it in the next step, which
            ignores its action; `SAME_STEP` resets it at once and returns the last observation in
            `infos["final_obs"]`; `DISABLED` requires `reset(options={"reset_mask": mask})`.
        **arguments: arguments of the game.

    Raises:
        TypeError, ValueError: an argument is not as above, or the game does not accept it; the message names it.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012, declared so by Gymnasium
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 8,
    }

    def __init__(
        self,
        game: Callable[..., Game],
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **arguments: Any,
    ) -> None:
        self._game = game(whole_number("num_envs", num_envs, 1), **arguments)
        one_of("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        if not isinstance(autoreset_mode, AutoresetMode):
            one_of("autoreset_mode", autoreset_mode, tuple(mode.value for mode in AutoresetMode))
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.num_envs = self._game.num_games
        self.single_observation_space = self._game.observation_space
        self.single_action_space = self._game.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Screens, dict[str, Any]]:
        """Begin the next episode of every environment, or of the environments in `options["reset_mask"]`.

        An int seeds environment i with `seed + i`; an environment with None in a list of seeds continues its own
        sequence of episodes. The other options are the same as in the single environment, each with one value for all
        environments or an array with a first axis of `num_envs`.
        """
        others = dict(options or {})
        index = self._check_mask(others.pop("reset_mask", None))
        given = self._game.parse_options(others)
        self._reseed(index, seed)
        self._game.begin(index, given)
        return self._game.observe(), {}

    def step(
        self, actions: npt.NDArray[np.integer[Any]]
    ) -> tuple[Screens, npt.NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """Play one frame of every environment."""
        game = self._game
        self._require_begun("step")
        rewards = self._advance(self._check(actions))
        over, truncations = game.ended(), game.truncated()
        observations, infos = game.observe(), {}
        if np.count_nonzero(over):
            infos = {"is_success": game.succeeded() & over, "_is_success": over.copy()}
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                index = np.flatnonzero(over)
                infos = _final(observations, infos, over, index)
                game.begin(index)
                observations = game.observe()
        return observations, rewards, over & ~truncations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return the true screens, one RGB array or string for each environment."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode, given when the environment is made.")
            return None
        self._require_begun("render")
        draw = picture if self.render_mode == "rgb_array" else text
        return tuple(draw(self._game.scene(number)) for number in range(self.num_envs))

    def get_state(self) -> State:
        """Return the state as arrays [num_envs, ...]; after `set_state` an environment continues identically."""
        return self._game.get_state()

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a state that `get_state` returned."""
        self._game.set_state(state)

    def _advance(self, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        game = self._game
        over = game.ended()
        if not np.count_nonzero(over):
            return game.advance(ALL, actions)
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            numbers = np.flatnonzero(over).tolist()
            raise ResetNeeded(
                f'environments {numbers} have ended: call reset(options={{"reset_mask": mask}}) before step()'
            )
        playing = np.flatnonzero(~over)
        rewards = np.zeros(self.num_envs)
        rewards[playing] = game.advance(playing, actions[playing])
        game.begin(np.flatnonzero(over))
        return rewards

    def _reseed(self, index: Index, seed: int | Sequence[int | None] | None) -> None:
        """Give new keys to environments with a seed, and keys from fresh entropy to environments that have none."""
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            seeds: list[int | None] = [int(seed) + number for number in range(self.num_envs)]
        else:
            seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be one number or a list of {self.num_envs}, got {len(seeds)} of them")
        numbers = np.arange(self.num_envs)[index]
        seeded = [number for number in numbers if seeds[number] is not None]
        fresh = [number for number in numbers if seeds[number] is None and not self._game.state["frame"][number]]
        keys = [new_key(seeding.np_random(seeds[number])[0]) for number in seeded]
        keys += [new_key(self.np_random) for _ in fresh]
        self._game.reseed(np.array(seeded + fresh, np.intp), np.array(keys, np.uint64))

    def _check_mask(self, mask: object) -> Index:
        begun = self._game.state["frame"] > 0
        if mask is None:
            return ALL
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f'options["reset_mask"] must be a NumPy array of bool, got {mask!r}')
        if mask.shape != (self.num_envs,):
            raise ValueError(f'options["reset_mask"] must have shape ({self.num_envs},), got {mask.shape}')
        if not mask.any():
            raise ValueError('options["reset_mask"] must choose at least one environment')
        if not (mask | begun).all():
            raise ResetNeeded('the first reset() must be of every environment, got options["reset_mask"]')
        return np.flatnonzero(mask)

    def _require_begun(self, method: str) -> None:
        if np.count_nonzero(self._game.state["frame"]) < self.num_envs:
            raise ResetNeeded(f"call reset() before {method}()")

    def _check(self, actions: object) -> npt.NDArray[np.int64]:
        array: npt.NDArray[Any] = np.asarray(actions)
        # As in Gymnasium, a scalar is a TypeError and a wrong count a ValueError.
        if not array.ndim:
            raise TypeError(f"actions must have shape ({self.num_envs},), got {actions!r}")
        if array.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},), got {array.shape}")
        if array.dtype.kind not in "iu":
            raise InvalidAction(f"actions must be whole numbers, got {actions!r}")
        checked = array.astype(np.int64)
        # Viewed as unsigned, negative numbers are huge, so one comparison is enough.
        if checked.view(np.uint64).max() >= self._game.action_space.n:
            raise InvalidAction(f"actions must be from 0 to {self._game.action_space.n - 1}, got {actions!r}")
        return checked


def _final(observations: Screens, info: dict[str, Any], mask: Bools, index: npt.NDArray[np.intp]) -> dict[str, Any]:
    """Return the infos of a step that also resets, in the layout of `SyncVectorEnv`."""
    final_obs = np.full(len(mask), None, dtype=object)
    # fromiter keeps each row as one array; a plain assignment would split the rows.
    final_obs[index] = np.fromiter(observations[index], object, len(index))
    return {"final_obs": final_obs, "_final_obs": mask.copy(), "final_info": info, "_final_info": mask.copy()}
