"""Games that show a symbol a frame, whatever the player does, and ask for an answer now and then."""

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
    """The rules that such games share. The state adds `right` [B], how many answers have been right.

    A right answer is worth 1 / questions and a wrong one -1 / questions. The player sees the symbol one-hot, or zeros.

    Args:
        num_games: size of the batch, B.
        alphabet: a character for each symbol.
        answers: how many answers there are to choose from.
        frames: how many frames there are; after the action in the last one the game has ended.
        questions: in how many of them something is asked.
        starts: as `Game`'s `ranges`, of what chance decides.
        lengths: as `Game`'s.
        distinct: as `Game`'s.
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
        """The symbols, or `NOTHING`, that the `games` [n] show in those `frames` [n], from 1 to `self.frames`."""

    @abstractmethod
    def answers(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """The right answers to what the `games` [n] ask in those `frames` [n]; `NOTHING` where nothing is asked."""

    def advance(self, index: Index, actions: Ints) -> npt.NDArray[np.float64]:
        """Take the answers and show the next frame."""
        games = self._games[index]
        answers = self.answers(games, self.state["frame"][games])
        right = actions == answers
        self.state["right"][games] += right
        self.state["frame"][games] += 1
        rewards: npt.NDArray[np.float64] = (2.0 * right - (answers != NOTHING)) / self.questions
        return rewards

    def ended(self) -> npt.NDArray[np.bool_]:
        """Whether the last frame is over."""
        ended: npt.NDArray[np.bool_] = self.state["frame"] > self.frames
        return ended

    def succeeded(self) -> npt.NDArray[np.bool_]:
        """Whether all answers have been right."""
        succeeded: npt.NDArray[np.bool_] = self.state["right"] == self.questions
        return succeeded

    def observe(self) -> Screens:
        """The symbols one-hot [B, symbols], zeros where nothing is shown."""
        frames = self.state["frame"]
        shown = self.shown(self._games, np.minimum(frames, self.frames))
        seen = np.flatnonzero((shown != NOTHING) & (frames <= self.frames))
        screens = np.zeros((self.num_games, len(self.alphabet)), np.uint8)
        screens[seen, shown[seen]] = 1
        return screens

    def scene(self, number: int) -> Scene:
        """All that one game has shown, a row for each symbol and a column for each frame."""
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
