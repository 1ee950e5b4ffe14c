"""Repeat previous: symbols pass by, and each has to be repeated some steps later."""

from functools import partial
from string import digits

import numpy as np
import numpy.typing as npt

from .arguments import whole_number
from .registry import Returns
from .single import GameEnv
from .symbols import NOTHING, Ints, SymbolGame
from .vector import GameVectorEnv


def _check(delay: object, symbols: object, answers: object) -> tuple[int, int, int]:
    symbols = whole_number("symbols", symbols, 2, len(digits))
    return whole_number("delay", delay, 1), symbols, whole_number("answers", answers, 1)


def returns(delay: int, symbols: int, answers: int) -> Returns:
    """The expected returns of the reference policies that `RepeatPreviousEnv` describes."""
    _, symbols, _ = _check(delay, symbols, answers)
    luck = 2 / symbols - 1
    return Returns(optimal=1.0, memoryless=luck, random=luck)


class RepeatPreviousGame(SymbolGame):
    """The rules. The state adds `sequence` [B, frames], the symbols in the order in which they are shown."""

    def __init__(self, num_games: int, delay: int, symbols: int, answers: int) -> None:
        self.delay, symbols, answers = _check(delay, symbols, answers)
        frames = self.delay + answers
        super().__init__(
            num_games, digits[:symbols], symbols, frames, answers, {"sequence": symbols}, {"sequence": frames}
        )

    def shown(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """The next symbol in every frame."""
        shown: Ints = self.state["sequence"][games, frames - 1]
        return shown

    def answers(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """The symbol of `delay` frames ago."""
        return np.where(frames > self.delay, self.state["sequence"][games, frames - 1 - self.delay], NOTHING)


class RepeatPreviousEnv(GameEnv):
    """Repeat the symbol of `delay` steps ago, in every step.

    ## Description
    Every frame shows a symbol. From frame `delay + 1` on, the player has to say which symbol was shown `delay` frames
    before the present one: its memory is a queue of that many symbols, all of which matter. After RepeatPrevious of
    Morad et al. (2023), "POPGym: Benchmarking Partially Observable Reinforcement Learning",
    https://arxiv.org/abs/2303.01859, which deals cards from a deck, where these symbols are independent.

    ## Action Space
    `Discrete(symbols)`: the symbol. Of no effect in the first `delay` frames.

    ## Observation Space
    `Box(0, 1, (symbols,), uint8)`: the symbol one-hot; all zeros after the end.

    ## Starting State
    Every symbol is equally likely in every frame, whatever the others are; `reset(options={"sequence": symbols})` sets
    them, `delay + answers` numbers or one for all.

    ## Rewards
    1 / `answers` for a right answer, -1 / `answers` for a wrong one, 0 in the first `delay` frames. Expected return of
    an episode, exactly (`fwagents.envs.reference_returns`): 1 with perfect memory; 2 / `symbols` - 1 for every
    memoryless player, since the symbol that it sees says nothing about the one that is asked for, and for a random one.

    ## Episode End
    Terminated after the last answer, which is step `delay + answers`. Never truncated.

    ## Information
    `is_success` (bool), at the end only: whether all answers were right.

    ## Arguments
    - `delay` (4): the difficulty, at least 1.
    - `symbols` (4): how many different ones there are, from 2 to 10.
    - `answers` (16): how many are asked for in an episode, at least 1.
    - `render_mode` (None): "human", "rgb_array" or "ansi". The picture shows what has been shown, frames from left to
      right.

    ## Version History
    - v0: first version.
    """

    def __init__(self, delay: int = 4, symbols: int = 4, answers: int = 16, render_mode: str | None = None) -> None:
        super().__init__(RepeatPreviousGame(1, delay, symbols, answers), render_mode)


RepeatPreviousVectorEnv = partial(GameVectorEnv, RepeatPreviousGame)
