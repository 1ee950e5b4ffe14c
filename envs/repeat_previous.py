"""Repeat previous: the player sees symbols, and has to repeat each symbol some steps later."""

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
    """Return the expected returns of the reference policies that `RepeatPreviousEnv` describes."""
    _, symbols, _ = _check(delay, symbols, answers)
    luck = 2 / symbols - 1
    return Returns(optimal=1.0, memoryless=luck, random=luck)


class RepeatPreviousGame(SymbolGame):
    """The rules. The state adds `sequence` [B, frames], the symbols in the order of the frames."""

    def __init__(self, num_games: int, delay: int, symbols: int, answers: int) -> None:
        self.delay, symbols, answers = _check(delay, symbols, answers)
        frames = self.delay + answers
        super().__init__(
            num_games, digits[:symbols], symbols, frames, answers, {"sequence": symbols}, {"sequence": frames}
        )

    def shown(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Return the symbol of every frame."""
        shown: Ints = self.state["sequence"][games, frames - 1]
        return shown

    def answers(self, games: npt.NDArray[np.intp], frames: Ints) -> Ints:
        """Return the symbol of `delay` frames ago; `NOTHING` in the first `delay` frames."""
        return np.where(frames > self.delay, self.state["sequence"][games, frames - 1 - self.delay], NOTHING)


class RepeatPreviousEnv(GameEnv):
    """Repeat the symbol of `delay` steps ago in every step.

    ## Description
    Every frame shows a symbol. From frame `delay + 1` on, the player has to answer with the symbol that was shown
    `delay` frames before the current frame, so it has to remember the last `delay` symbols. Adapted from RepeatPrevious
    of Morad et al. (2023), "POPGym: Benchmarking Partially Observable Reinforcement Learning",
    https://arxiv.org/abs/2303.01859, which deals cards from a deck; here the symbols are independent.

    ## Action Space
    `Discrete(symbols)`: the symbol. It has no effect in the first `delay` frames.

    ## Observation Space
    `Box(0, 1, (symbols,), uint8)`: the symbol one-hot; all zeros after the end.

    ## Starting State
    All symbols are equally likely in every frame, independently of other frames; `reset(options={"sequence": symbols})`
    sets them, as `delay + answers` numbers or one number for all.

    ## Rewards
    1 / `answers` for a right answer, -1 / `answers` for a wrong one, 0 in the first `delay` frames. The exact expected
    return of an episode (`fwagents.envs.reference_returns`): 1 with perfect memory; 2 / `symbols` - 1 for every
    memoryless player, since the visible symbol says nothing about the right answer, and for a random player.

    ## Episode End
    Terminated after the last answer, in step `delay + answers`. Never truncated.

    ## Information
    `is_success` (bool), at the end only: whether all answers were right.

    ## Arguments
    - `delay` (4): steps from a symbol to its answer, the difficulty, at least 1.
    - `symbols` (4): number of different symbols, from 2 to 10.
    - `answers` (16): number of answers in an episode, at least 1.
    - `render_mode` (None): "human", "rgb_array" or "ansi". The picture shows all frames so far, from left to right.

    ## Version History
    - v0: first version.
    """

    def __init__(self, delay: int = 4, symbols: int = 4, answers: int = 16, render_mode: str | None = None) -> None:
        super().__init__(RepeatPreviousGame(1, delay, symbols, answers), render_mode)


RepeatPreviousVectorEnv = partial(GameVectorEnv, RepeatPreviousGame)
