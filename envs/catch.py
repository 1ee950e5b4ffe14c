"""Partially observable Catch: a ball falls, and after a few frames the screen goes blank."""

from functools import partial

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .arguments import whole_number
from .game import ALL, Game, Index, Screens
from .registry import Returns
from .render import Cell, Scene
from .single import GameEnv
from .vector import GameVectorEnv


def _check(size: object, visible_frames: object, paddle_width: object) -> tuple[int, int, int]:
    size = whole_number("size", size, 2, most=1000)
    visible = size if visible_frames is None else whole_number("visible_frames", visible_frames, 1, size)
    return size, visible, whole_number("paddle_width", paddle_width, 1, size)


def returns(size: int, visible_frames: int | None, paddle_width: int) -> Returns:
    """Return the expected returns of the reference policies that `CatchEnv` describes."""
    size, visible, width = _check(size, visible_frames, paddle_width)
    places = size - width + 1
    # The ball can be d > 0 columns to the paddle's left at `places - d` of the paddle's places; likewise to its right.
    reach = min(visible, size - 1, places - 1)
    reached = width * places + sum(2 * (places - distance) for distance in range(1, reach + 1))
    return Returns(optimal=1.0, memoryless=2 * reached / (size * places) - 1, random=2 * width / size - 1)


class CatchGame(Game):
    """The rules of Catch. The state adds `ball` and `paddle` [B], the columns of the ball and the paddle's left end."""

    def __init__(self, num_games: int, size: int, visible_frames: int | None, paddle_width: int) -> None:
        self.size, self.visible_frames, self.paddle_width = _check(size, visible_frames, paddle_width)
        places = self.size - self.paddle_width + 1
        ranges = {"frame": self.size + 1, "ball": self.size, "paddle": places}
        super().__init__(num_games, ranges, starts=("ball", "paddle"))
        self.observation_space = spaces.Box(0, 1, (self.size * self.size,), np.uint8)
        self.action_space = spaces.Discrete(3)
        place = np.arange(places)
        # New place of the paddle [action, place] for stay, left and right; the walls stop it.
        self._moved = np.stack([place, np.maximum(place - 1, 0), np.minimum(place + 1, places - 1)])

    def advance(self, index: Index, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Move the paddle, then let the ball fall by a row."""
        state = self.state
        state["paddle"][index] = self._moved[actions, state["paddle"][index]]
        state["frame"][index] += 1
        ended = self.ended()[index]
        rewards = np.zeros(len(ended))
        if np.count_nonzero(ended):
            rewards[ended] = np.where(self.succeeded()[index][ended], 1.0, -1.0)
        return rewards

    def ended(self) -> npt.NDArray[np.bool_]:
        """Return whether the ball is in the bottom row."""
        ended: npt.NDArray[np.bool_] = self.state["frame"] == self.size
        return ended

    def succeeded(self) -> npt.NDArray[np.bool_]:
        """Return whether the ball's column is one of the paddle's columns."""
        offset = self.state["ball"] - self.state["paddle"]
        under: npt.NDArray[np.bool_] = (offset >= 0) & (offset < self.paddle_width)
        return under

    def observe(self) -> Screens:
        """Return the flattened screens [B, size * size], blank after the visible frames."""
        seen = self.state["frame"] <= self.visible_frames
        count = np.count_nonzero(seen)
        if count == self.num_games:
            return self._screens(ALL)
        screens = np.zeros((self.num_games, self.size * self.size), np.uint8)
        if count:
            screens[seen] = self._screens(np.flatnonzero(seen))
        return screens

    def scene(self, number: int) -> Scene:
        """Return the true screen of one game."""
        frame, ball, paddle = (int(self.state[name][number]) for name in ("frame", "ball", "paddle"))
        hidden = frame > self.visible_frames
        success = bool(self.succeeded()[number]) if frame == self.size else None
        cells = np.zeros((self.size, self.size), np.int64)
        cells[-1, paddle : paddle + self.paddle_width] |= Cell.AGENT
        cells[frame - 1, ball] |= Cell.TARGET
        ending = {None: "", True: ", caught", False: ", missed"}[success]
        return Scene(
            cells, hidden, success, f"frame {frame}/{self.size}, screen {'blank' if hidden else 'visible'}{ending}"
        )

    def _screens(self, index: Index) -> Screens:
        frame, ball, paddle = (self.state[name][index] for name in ("frame", "ball", "paddle"))
        screens = np.zeros((len(frame), self.size * self.size), np.uint8)
        rows = np.arange(len(frame))
        screens[rows, (frame - 1) * self.size + ball] = 1
        bottom = self.size * (self.size - 1)
        for column in range(self.paddle_width):
            screens[rows, bottom + paddle + column] = 1
        return screens


class CatchEnv(GameEnv):
    """Catch a falling ball that soon becomes invisible.

    ## Description
    A ball falls through a square screen, one row a frame, and a paddle in the bottom row has to be under the ball when
    it arrives. After `visible_frames` frames the screen goes blank, including the paddle. The player has to remember
    the column of the ball and keep track of its own moves. From Ba, Hinton, Mnih, Leibo and Ionescu (2016), "Using Fast
    Weights to Attend to the Recent Past", section 4.4, https://arxiv.org/abs/1610.06258.

    `PartialCatch-v0` (size 16, 3 visible frames) and `PartialCatchLarge-v0` (24, 5) are the paper's games; `Catch-v0`
    (16) never goes blank.

    ## Action Space
    `Discrete(3)`: 0 stay, 1 left, 2 right, by one column; the walls stop the paddle. The paddle moves before the ball
    falls.

    ## Observation Space
    `Box(0, 1, (size * size,), uint8)`: the screen, row by row from the top. The ball is one pixel and the paddle
    `paddle_width` pixels; where they overlap the pixel is 1. All pixels are 0 after frame `visible_frames`, including
    the last frame.

    ## Starting State
    The ball is in the top row, in a uniformly random column. The paddle's place is uniformly random among the `size -
    paddle_width + 1` possible places, independent of the ball. (The paper does not state where the paddle starts, but
    says that its place has to be remembered.) `reset(options={"ball": column, "paddle": column of its left end})` sets
    either.

    ## Rewards
    In the last frame, +1 if the ball is in one of the paddle's columns, else -1; before that, 0. The exact expected
    return of an episode (`fwagents.envs.reference_returns`), with size N, visible frames M and paddle width w:

    - a player with perfect memory: +1;
    - the best memoryless player, which moves toward the visible ball and stays in place on blank screens: it catches
      the ball if the paddle starts at most M columns away, so 2 c / (N L) - 1 with L = N - w + 1 places, m =
      min(M, N - 1, L - 1) and c = w L + m (2 L - m - 1);
    - a random player, or any player that ignores the screen: 2 w / N - 1.

    | | perfect memory | memoryless | random |
    |---|---|---|---|
    | `PartialCatch-v0` | 1 | -0.1 | -0.75 |
    | `PartialCatchLarge-v0` | 1 | -0.109 | -0.833 |
    | `Catch-v0` | 1 | 1 | -0.75 |

    ## Episode End
    Terminated in frame `size`, when the ball reaches the bottom row. `reset` returns the first frame, so an episode
    takes `size - 1` steps. Never truncated.

    ## Information
    `is_success` (bool), at the end only: whether the ball was caught.

    ## Arguments
    - `size` (16): rows and columns of the screen, from 2 to 1000.
    - `visible_frames` (3): number of visible frames, from 1 to `size`; None shows all.
    - `paddle_width` (2): from 1 to `size`.
    - `render_mode` (None): "human", "rgb_array" or "ansi". The picture shows the true screen and marks the blank
      frames.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        size: int = 16,
        visible_frames: int | None = 3,
        paddle_width: int = 2,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(CatchGame(1, size, visible_frames, paddle_width), render_mode)

    def get_action_meanings(self) -> list[str]:
        """Return the names of the actions; the Atari environments have a method of this name."""
        return ["stay", "left", "right"]


CatchVectorEnv = partial(GameVectorEnv, CatchGame)
