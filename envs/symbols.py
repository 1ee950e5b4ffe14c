"""Games that show a symbol in each frame, independently of the actions, and query an answer in some frames."""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .game import Game, Index, Screens
from .render import Cell, Scene

NOTHING = -1
Ints = npt.NDArray[np.int64]


class SymbolGame(Game):
    """Rules that these games share. The state adds `right` [B], the number of right answers so far.

    The reward is 1 / questions for a right answer and -1 / questions for a wrong one. The player sees the symbol
    one-hot, or zeros.

    Args:
        num_games: size of the batch, B.
        alphabet: a character for each symbol.
        answers: number of possible answers.
        frames: number of frames; the action in the last frame ends the game.
        questions: number of frames that query an answer.
        starts: `ranges` of `Game` for the variables that are random at the start.
        lengths: see `Game`.
        distinct: see `Game`.
    """

    def __init__(
        self,
        num_games: int,
        alphabet: str,
        answers: int,
        frames: int,
        questions: int,
        starts: Mapping[str, int],
        lengths: Mapping[str, int] | None = None,
        distinct: tuple[str, ...] = (),
    ) -> None:
        ranges = {"frame": frames + 2, "right": questions + 1, **starts}
        super().__init__(num_games, ranges, tuple(starts), lengths, distinct)
        self.alphabet, self.frames, self.questions = alphabet, frames, questions
        self.observation_space = spaces.Box(0, 1, (len(alphabet),), np.uint8)
        self.action_space = spaces.Discrete(answers)
        self._games = np.arange(num_games)

    @abstractmethod
    def shown(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Return the symbols, or `NOTHING`, that the `games` [n] show in `frames` [n], from 1 to `self.frames`."""

    @abstractmethod
    def answers(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Return the right answers of the `games` [n] in `frames` [n]; `NOTHING` in frames without a query."""

    def advance(self, index: Index, actions: Ints) -> npt.NDArray[np.float64]:
        """Score the answers and go to the next frame."""
        games = self._games[index]
        answers = self.answers(games, self.state["frame"][games])
        right = actions == answers
        self.state["right"][games] += right
        self.state["frame"][games] += 1
        rewards: npt.NDArray[np.float64] = (2.0 * right - (answers != NOTHING)) / self.questions
        return rewards

    def ended(self) -> npt.NDArray[np.bool_]:
        """Return whether the last frame is over."""
        ended: npt.NDArray[np.bool_] = self.state["frame"] > self.frames
        return ended

    def succeeded(self) -> npt.NDArray[np.bool_]:
        """Return whether all answers have been right."""
        succeeded: npt.NDArray[np.bool_] = self.state["right"] == self.questions
        return succeeded

    def observe(self) -> Screens:
        """Return the symbols one-hot [B, symbols], or zeros if nothing is shown."""
        frames = self.state["frame"]
        shown = self.shown(self._games, np.minimum(frames, self.frames))
        seen = np.flatnonzero((shown != NOTHING) & (frames <= self.frames))
        screens = np.zeros((self.num_games, len(self.alphabet)), np.uint8)
        screens[seen, shown[seen]] = 1
        return screens

    def scene(self, number: int) -> Scene:
        """Return all frames of one game so far, with a row for each symbol and a column for each frame."""
        ended = bool(self.ended()[number])
        frame = min(int(self.state["frame"][number]), self.frames)
        games, frames = np.full(frame, number), np.arange(1, frame + 1)
        shown = self.shown(games, frames)
        cells = np.zeros((len(self.alphabet), self.frames), np.int64)
        seen = shown != NOTHING
        cells[shown[seen], frames[seen] - 1] = Cell.TARGET
        tape = "".join("." if symbol == NOTHING else self.alphabet[symbol] for symbol in shown)
        caption = f"frame {frame}/{self.frames}: {tape}"
        if ended:
            right = int(self.state["right"][number])
            return Scene(cells, False, right == self.questions, f"{caption}, {right} of {self.questions} right")
        answer = int(self.answers(games[-1:], frames[-1:])[0])
        asked = answer != NOTHING
        return Scene(cells, asked, None, f"{caption}, asked for {answer}" if asked else caption)
