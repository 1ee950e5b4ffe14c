"""One game as a Gymnasium `Env`."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import InvalidAction, ResetNeeded

from .arguments import one_of, whole_number
from .draws import new_key
from .game import ALL, Game, Screens, State
from .render import Window, picture, text


class GameEnv(gymnasium.Env[Screens, "int | np.integer[Any]"]):
    """Plays a batch of one game; subclasses make the game and document it."""

    metadata: dict[str, Any] = {  # noqa: RUF012, declared so by Gymnasium
        "render_modes": ["human", "rgb_array", "ansi"],
        "render_fps": 8,
    }

    def __init__(self, game: Game, render_mode: str | None) -> None:
        one_of("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self._game = game
        self._window = Window(type(self).__name__, self.metadata["render_fps"])
        self.render_mode = render_mode
        self.observation_space = game.observation_space
        self.action_space = game.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Screens, dict[str, Any]]:
        """Begin the next episode, or the first episode of a `seed`."""
        given = self._game.parse_options(options or {})
        super().reset(seed=seed)
        if seed is not None or not self._begun():
            self._game.reseed(ALL, new_key(self.np_random))
        self._game.begin(ALL, given)
        self._show()
        return self._game.observe()[0], {}

    def step(self, action: "int | np.integer[Any]") -> tuple[Screens, float, bool, bool, dict[str, Any]]:
        """Play one frame."""
        game = self._game
        if not self._begun() or game.ended()[0]:
            raise ResetNeeded("call reset() before the first step() and after the end of an episode")
        rewards = game.advance(ALL, self._check(action))
        self._show()
        ended = bool(game.ended()[0])
        info = {"is_success": bool(game.succeeded()[0])} if ended else {}
        truncated = bool(game.truncated()[0])
        return game.observe()[0], float(rewards[0]), ended and not truncated, truncated, info

    def render(self) -> Any:
        """Return the true screen as an RGB array or a string, or None if a window shows it."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode, given when the environment is made.")
        if self.render_mode is None or self.render_mode == "human":
            return None
        if not self._begun():
            raise ResetNeeded("call reset() before render()")
        scene = self._game.scene(0)
        return picture(scene) if self.render_mode == "rgb_array" else text(scene)

    def close(self) -> None:
        """Close the window, if there is one."""
        self._window.close()

    def get_state(self) -> State:
        """Return the state as arrays [1, ...]; after `set_state` an environment continues identically."""
        return self._game.get_state()

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a state that `get_state` returned."""
        self._game.set_state(state)

    def _begun(self) -> bool:
        return bool(self._game.state["frame"][0])

    def _show(self) -> None:
        if self.render_mode == "human":
            self._window.show(picture(self._game.scene(0)))

    def _check(self, action: object) -> npt.NDArray[np.int64]:
        # Indexing a batch of actions can give a 0-d array.
        value = action[()] if isinstance(action, np.ndarray) and action.ndim == 0 else action
        try:
            return np.array([whole_number("action", value, 0, int(self._game.action_space.n) - 1)])
        except (TypeError, ValueError) as error:
            raise InvalidAction(str(error)) from None
