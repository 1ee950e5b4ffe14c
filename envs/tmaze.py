"""The T-maze: a sign at the start of a corridor shows which way to turn at its end."""

from functools import partial

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .arguments import whole_number
from .game import Game, Index, Screens
from .registry import Returns
from .render import Cell, Scene
from .single import GameEnv
from .vector import GameVectorEnv

RIGHT, WRONG = 4.0, -0.1
MOVES = np.array([0, 1, 0, -1])
# Views at the sign (north, south), in the corridor, at the junction, and after the choice.
VIEWS = np.array([[0, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]], np.uint8)


def time_limit(length: int) -> int:
    """Return the step after which an episode is truncated: four times the length of the shortest path."""
    return 4 * (length + 1)


def returns(length: int) -> Returns:
    """Return the expected returns of the reference policies that `TMazeEnv` describes."""
    length, rewards = whole_number("length", length, 1), 0.0
    # Probability of a random player to be at each place without having made the choice.
    place = np.eye(length + 1)[0]
    for _ in range(time_limit(length)):
        junction, stays = place[-1], np.r_[place[:-1] / 2, 0.0]
        stays[[0, -1]] += place[[0, -1]] / 4
        rewards += junction / 2 * (RIGHT + WRONG) / 2 + WRONG * stays.sum()
        place = stays + np.r_[0.0, place[:-1] / 4] + np.r_[place[1:] / 4, 0.0]
    return Returns(optimal=RIGHT, memoryless=(RIGHT + WRONG) / 2, random=float(rewards))


class TMazeGame(Game):
    """The rules. The state adds [B] `goal` (0 north, 1 south), `place` (steps from the start) and `choice`.

    `choice` is 0 before the choice, then 1 for north, 2 for south.
    """

    def __init__(self, num_games: int, length: int) -> None:
        self.length = whole_number("length", length, 1)
        self.limit = time_limit(self.length)
        ranges = {"frame": self.limit + 2, "goal": 2, "place": self.length + 1, "choice": 3}
        super().__init__(num_games, ranges, starts=("goal",))
        self.observation_space = spaces.Box(0, 1, (3,), np.uint8)
        self.action_space = spaces.Discrete(4)

    def advance(self, index: Index, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Move the player, or make the choice at the junction."""
        state = self.state
        place = state["place"][index]
        choice = np.where((place == self.length) & (MOVES[actions] == 0), 1 + actions // 2, 0)
        moved = np.clip(place + MOVES[actions], 0, self.length)
        rewards = np.where(moved == place, WRONG, 0.0)
        rewards[choice == 1 + state["goal"][index]] = RIGHT
        state["place"][index], state["choice"][index] = moved, choice
        state["frame"][index] += 1
        return rewards

    def ended(self) -> npt.NDArray[np.bool_]:
        """Return whether the choice is made or the time limit is reached."""
        ended: npt.NDArray[np.bool_] = (self.state["choice"] > 0) | (self.state["frame"] > self.limit)
        return ended

    def truncated(self) -> npt.NDArray[np.bool_]:
        """Return whether the time limit is reached without a choice."""
        truncated: npt.NDArray[np.bool_] = (self.state["choice"] == 0) & (self.state["frame"] > self.limit)
        return truncated

    def succeeded(self) -> npt.NDArray[np.bool_]:
        """Return whether the choice is the goal."""
        succeeded: npt.NDArray[np.bool_] = self.state["choice"] == 1 + self.state["goal"]
        return succeeded

    def observe(self) -> Screens:
        """Return the walls or the sign around the player [B, 3]."""
        place = self.state["place"]
        view = np.where(place == 0, self.state["goal"], np.where(place == self.length, 3, 2))
        seen: Screens = VIEWS[np.where(self.state["choice"] > 0, 4, view)]
        return seen

    def scene(self, number: int) -> Scene:
        """Return the maze from above, with the player and the goal."""
        frame, goal, place, choice = (int(self.state[name][number]) for name in ("frame", "goal", "place", "choice"))
        cells = np.full((3, self.length + 1), Cell.WALL, np.int64)
        cells[1], cells[:, -1] = Cell.EMPTY, Cell.EMPTY
        cells[2 * goal, -1] |= Cell.TARGET
        cells[(1, 0, 2)[choice], place] |= Cell.AGENT
        success = choice == 1 + goal if self.ended()[number] else None
        ending = {None: "", True: ", right", False: ", wrong" if choice else ", out of time"}[success]
        return Scene(cells, place > 0, success, f"step {frame - 1} of at most {self.limit}{ending}")


class TMazeEnv(GameEnv):
    """Walk down a corridor and turn to the side that a sign at its start showed.

    ## Description
    A corridor runs from the start in the west to a junction in the east. A sign at the start, visible only there, shows
    whether the goal is north or south of the junction. The T-maze of Bakker (2002), "Reinforcement Learning with Long
    Short-Term Memory", https://papers.nips.cc/paper/1953-reinforcement-learning-with-long-short-term-memory.

    ## Action Space
    `Discrete(4)`: 0 north, 1 east, 2 south, 3 west. An action toward a wall does not move the player.

    ## Observation Space
    `Box(0, 1, (3,), uint8)`: 011 at the start if the goal is north and 110 if it is south, 101 in the corridor, 010 at
    the junction; all zeros after the choice.

    ## Starting State
    The player is at the start; the goal is north or south, equally likely. `reset(options={"goal": 0 for north, 1 for
    south})` sets it.

    ## Rewards
    4 for the right choice at the junction, -0.1 for the wrong choice and for every step without a move; else 0. The
    exact expected return of an episode (`fwagents.envs.reference_returns`):

    - a player with perfect memory: 4;
    - the best memoryless player, which walks to the junction and guesses: (4 - 0.1) / 2 = 1.95. Only its actions at the
      start can depend on the goal, and standing still there costs no less than a wrong guess;
    - a random player: the sum over steps of the expected reward at its place; -2.434 at length 10.

    ## Episode End
    Terminated by the choice, in step `length + 1` at the earliest. Truncated after `4 (length + 1)` steps, a limit that
    is ours.

    ## Information
    `is_success` (bool), at the end only: whether the choice was right.

    ## Arguments
    - `length` (10): number of steps from the start to the junction, the difficulty, at least 1.
    - `render_mode` (None): "human", "rgb_array" or "ansi". The picture shows the maze from above and marks the steps in
      which the sign is not visible.

    ## Version History
    - v0: first version.
    """

    def __init__(self, length: int = 10, render_mode: str | None = None) -> None:
        super().__init__(TMazeGame(1, length), render_mode)


TMazeVectorEnv = partial(GameVectorEnv, TMazeGame)
