"""Key-value recall: the player sees key-value pairs, then a key, and has to answer with its value."""

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
    """Return the expected returns of the reference policies that `KeyValueRecallEnv` describes."""
    _check(pairs)
    luck = 2 / DIGITS - 1
    return Returns(optimal=1.0, memoryless=luck, random=luck)


class KeyValueRecallGame(SymbolGame):
    """The rules. The state adds `keys` and `values` [B, pairs], and `asked` [B], the pair whose key is queried."""

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
        """Return the symbols: key and value of each pair in turn, two marks, and the queried key."""
        asked = self.state["asked"][games]
        pair = np.where(frames == self.frames, asked, np.minimum((frames - 1) // 2, self.pairs - 1))
        # Odd frames, including the last, show keys; even frames show values.
        symbol = np.where(frames % 2, self.state["keys"][games, pair], LETTERS + self.state["values"][games, pair])
        marked = (frames > 2 * self.pairs) & (frames < self.frames)
        return np.where(marked, MARK, symbol)

    def answers(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Return the value of the queried key in the last frame, else `NOTHING`."""
        value = self.state["values"][games, self.state["asked"][games]]
        return np.where(frames == self.frames, value, NOTHING)


class KeyValueRecallEnv(GameEnv):
    """See some key-value pairs, then answer with the value of one key.

    ## Description
    The associative retrieval task of Ba, Hinton, Mnih, Leibo and Ionescu (2016), "Using Fast Weights to Attend to the
    Recent Past", section 4.1, https://arxiv.org/abs/1610.06258, as an environment. `c9k8j3f1??c` is shown one character
    a frame, and the right action in the last frame is 9. The paper trains on the right answer; here the agent only gets
    a reward.

    ## Action Space
    `Discrete(10)`: the digit. It has an effect only in the last frame.

    ## Observation Space
    `Box(0, 1, (37,), uint8)`: the character one-hot, in the order a-z, 0-9, `?`; all zeros after the end.

    ## Starting State
    The keys are different letters, the values are digits that may repeat, and one of the keys is queried, all uniformly
    random. `reset(options={"keys": letters, "values": digits, "asked": pair})` sets any of them, by numbers from 0.

    ## Rewards
    +1 for the right digit in the last frame, -1 for a wrong one; 0 before. The exact expected return of an episode
    (`fwagents.envs.reference_returns`): 1 with perfect memory; -0.8 for every memoryless player, since a key says
    nothing about its value, and for a random player.

    ## Episode End
    Terminated by the answer, after `2 pairs + 3` steps. Never truncated.

    ## Information
    `is_success` (bool), at the end only: whether the answer was right.

    ## Arguments
    - `pairs` (4): number of pairs, the difficulty, from 1 to 26.
    - `render_mode` (None): "human", "rgb_array" or "ansi". The picture shows all frames so far, from left to right, and
      marks the query.

    ## Version History
    - v0: first version.
    """

    def __init__(self, pairs: int = 4, render_mode: str | None = None) -> None:
        super().__init__(KeyValueRecallGame(1, pairs), render_mode)


KeyValueRecallVectorEnv = partial(GameVectorEnv, KeyValueRecallGame)
