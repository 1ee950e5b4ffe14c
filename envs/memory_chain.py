"""Memory chain: a bit is shown, and queried much later."""

from functools import partial

import numpy as np
import numpy.typing as npt

from .arguments import whole_number
from .registry import Returns
from .single import GameEnv
from .symbols import NOTHING, Ints, SymbolGame
from .vector import GameVectorEnv


def returns(length: int) -> Returns:
    """Return the expected returns of the reference policies that `MemoryChainEnv` describes."""
    whole_number("length", length, 1)
    return Returns(optimal=1.0, memoryless=0.0, random=0.0)


class MemoryChainGame(SymbolGame):
    """The rules. The state adds `context` [B], the bit."""

    def __init__(self, num_games: int, length: int) -> None:
        self.length = whole_number("length", length, 1)
        super().__init__(num_games, "01?", 2, frames=self.length + 1, questions=1, starts={"context": 2})

    def shown(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Return the symbols: the bit in the first frame, the query in the last, else `NOTHING`."""
        between = np.where(frames == self.frames, 2, NOTHING)
        return np.where(frames == 1, self.state["context"][games], between)

    def answers(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Return the bit in the last frame, else `NOTHING`."""
        return np.where(frames == self.frames, self.state["context"][games], NOTHING)


class MemoryChainEnv(GameEnv):
    """Remember one bit for `length` steps.

    ## Description
    The first frame shows a bit, the last frame a query, and the frames between them are blank. The player has to answer
    the query with the bit. Adapted from the memory_len experiment of Osband et al. (2020), "Behaviour Suite for
    Reinforcement Learning", https://arxiv.org/abs/1908.03568, which also shows the remaining time.

    ## Action Space
    `Discrete(2)`: the bit. It has an effect only in the last frame.

    ## Observation Space
    `Box(0, 1, (3,), uint8)`, one-hot: the bit is 0, the bit is 1, the query. All zeros in the other frames and after
    the end.

    ## Starting State
    The bit is 0 or 1, equally likely; `reset(options={"context": bit})` sets it.

    ## Rewards
    +1 for the right answer in the last frame, -1 for the wrong one; 0 before. The exact expected return of an episode
    (`fwagents.envs.reference_returns`): 1 with perfect memory; 0 for every memoryless player, since the query is the
    same for both bits, and for a random player.

    ## Episode End
    Terminated by the answer, after `length + 1` steps. Never truncated.

    ## Information
    `is_success` (bool), at the end only: whether the answer was right.

    ## Arguments
    - `length` (20): number of steps from the bit to the query, the difficulty, at least 1.
    - `render_mode` (None): "human", "rgb_array" or "ansi". The picture shows all frames so far, from left to right, and
      marks the query.

    ## Version History
    - v0: first version.
    """

    def __init__(self, length: int = 20, render_mode: str | None = None) -> None:
        super().__init__(MemoryChainGame(1, length), render_mode)


MemoryChainVectorEnv = partial(GameVectorEnv, MemoryChainGame)
