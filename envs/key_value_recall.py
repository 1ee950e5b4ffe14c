"""Key-value recall: pairs pass by, then a key, whose value is asked for."""

from functools import partial
from string import ascii_lowercase, digits

import numpy as np
import numpy.typing as npt

from .arguments import whole_number
from .registry import Returns
from .single import GameEnv
from .symbols import NOTHING, Ints, SymbolGame
from .vector import GameVectorEnv

LETTERS, DIGITS = len(ascii_lowercase), len(digits)
MARK = LETTERS + DIGITS


def _check(pairs: object) -> int:
    return whole_number("pairs", pairs, 1, LETTERS)


def returns(pairs: int) -> Returns:
    """The expected returns of the reference policies that `KeyValueRecallEnv` describes."""
    _check(pairs)
    luck = 2 / DIGITS - 1
    return Returns(optimal=1.0, memoryless=luck, random=luck)


class KeyValueRecallGame(SymbolGame):
    """The rules. The state adds `keys` and `values` [B, pairs], and `asked` [B], the pair whose key is shown last."""

    def __init__(self, num_games: int, pairs: int) -> None:
        self.pairs = _check(pairs)
        super().__init__(
            num_games,
            ascii_lowercase + digits + "?",
            DIGITS,
            frames=2 * self.pairs + 3,
            questions=1,
            starts={"keys": LETTERS, "values": DIGITS, "asked": self.pairs},
            lengths={"keys": self.pairs, "values": self.pairs},
            distinct=("keys",),
        )

    def shown(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Key and value of each pair in turn, two marks, and the key that is asked for."""
        asked = self.state["asked"][games]
        pair = np.where(frames == self.frames, asked, np.minimum((frames - 1) // 2, self.pairs - 1))
        # Odd frames show keys, the last one among them; even ones values.
        symbol = np.where(frames % 2, self.state["keys"][games, pair], LETTERS + self.state["values"][games, pair])
        marked = (frames > 2 * self.pairs) & (frames < self.frames)
        return np.where(marked, MARK, symbol)

    def answers(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """The value of the key that the last frame shows."""
        value = self.state["values"][games, self.state["asked"][games]]
        return np.where(frames == self.frames, value, NOTHING)


class KeyValueRecallEnv(GameEnv):
    """See some key-value pairs, then say the value of one key.

    ## Description
    The associative retrieval of Ba, Hinton, Mnih, Leibo and Ionescu (2016), "Using Fast Weights to Attend to the Recent
    Past", section 4.1, https://arxiv.org/abs/1610.06258, as an agent meets it: `c9k8j3f1??c` comes one character a
    frame, and the action in the last one has to be 9. Where the paper teaches the answer, here only its reward is told.

    ## Action Space
    `Discrete(10)`: the digit. Of no effect but in the last frame.

    ## Observation Space
    `Box(0, 1, (37,), uint8)`: the character one-hot, in the order a-z, 0-9, `?`; all zeros after the end.

    ## Starting State
    The keys are different letters, the values digits that may repeat, and one of the keys is asked for, all uniformly.
    `reset(options={"keys": letters, "values": digits, "asked": which pair})` sets any of them, by numbers from 0.

    ## Rewards
    +1 for the right digit in the last frame, -1 for a wrong one; 0 before. Expected return of an episode, exactly
    (`fwagents.envs.reference_returns`): 1 with perfect memory; -0.8 for every memoryless player, since a key says
    nothing about its value, and for a random one.

    ## Episode End
    Terminated by the answer, after `2 pairs + 3` steps. Never truncated.

    ## Information
    `is_success` (bool), at the end only: whether the answer was right.

    ## Arguments
    - `pairs` (4): the difficulty, from 1 to 26.
    - `render_mode` (None): "human", "rgb_array" or "ansi". The picture shows what has been shown, frames from left to
      right, and marks the question.

    ## Version History
    - v0: first version.
    """

    def __init__(self, pairs: int = 4, render_mode: str | None = None) -> None:
        super().__init__(KeyValueRecallGame(1, pairs), render_mode)


KeyValueRecallVectorEnv = partial(GameVectorEnv, KeyValueRecallGame)
