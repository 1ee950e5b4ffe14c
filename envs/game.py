"""A batch of episodes of one game, stored as plain arrays; only a `Game` implements the rules of a game.

`GameEnv` plays a batch of one game and `GameVectorEnv` a batch of many, so they cannot disagree.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .arguments import whole_numbers
from .draws import draw, draw_order
from .render import Scene

Index: TypeAlias = "slice | npt.NDArray[np.intp]"
"""Games of the batch: `ALL`, or their numbers."""
ALL = slice(None)
State: TypeAlias = dict[str, npt.NDArray[Any]]
Screens: TypeAlias = npt.NDArray[np.uint8]


class Game(ABC):
    """A batch of `num_games` running games.

    `state` holds all variables as arrays [num_games] or, for lists, [num_games, length]: `key` and `episode` (see
    `draws`), `frame` (the number of the current frame: 1 after a reset, 0 before the first reset), and the variables of
    the game.

    Args:
        num_games: size of the batch, B.
        ranges: number of possible values, from 0, of each variable of the game, including `frame`.
        starts: names of the variables that are uniformly random at the start of an episode and that a reset's options
            may set.
        lengths: lengths of the variables that are lists.
        distinct: names of the lists in which no number occurs twice.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Discrete

    def __init__(
        self,
        num_games: int,
        ranges: Mapping[str, int],
        starts: tuple[str, ...],
        lengths: Mapping[str, int] | None = None,
        distinct: tuple[str, ...] = (),
    ) -> None:
        self.num_games = num_games
        self.ranges = dict(ranges)
        self.starts = starts
        self.distinct = distinct
        shapes = {name: (num_games, length) for name, length in (lengths or {}).items()}
        self.state: State = {name: np.zeros(num_games, np.uint64) for name in ("key", "episode")}
        self.state.update({name: np.zeros(shapes.get(name, num_games), np.int64) for name in ranges})

    @abstractmethod
    def advance(self, index: Index, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Play one frame of the games at `index` with valid `actions` and return their rewards."""

    @abstractmethod
    def ended(self) -> npt.NDArray[np.bool_]:
        """Return which games [B] have ended, including truncated ones."""

    @abstractmethod
    def succeeded(self) -> npt.NDArray[np.bool_]:
        """Return which games [B] have succeeded; meaningful only for games that have ended."""

    def truncated(self) -> npt.NDArray[np.bool_]:
        """Return which games [B] have ended by a time limit."""
        return np.zeros(self.num_games, np.bool_)

    @abstractmethod
    def observe(self) -> Screens:
        """Return the observation of each game's player [B, ...], in new memory."""

    @abstractmethod
    def scene(self, number: int) -> Scene:
        """Return the true screen of one game, for rendering."""

    def reseed(self, index: Index, keys: "np.uint64 | npt.NDArray[np.uint64]") -> None:
        """Begin new sequences of episodes at `index`."""
        self.state["key"][index] = keys
        self.state["episode"][index] = 0

    def begin(self, index: Index, given: Mapping[str, npt.NDArray[np.int64]] | None = None) -> None:
        """Begin the next episode of the games at `index`.

        Start values come from `given` [B, ...] where it has them and are drawn at random otherwise; every other field
        is 0.
        """
        for name in self.ranges.keys() - set(self.starts):
            self.state[name][index] = 0
        key, episode = self.state["key"][index], self.state["episode"][index]
        for number, name in enumerate(self.starts):
            if given and name in given:
                self.state[name][index] = given[name][index]
            else:
                self.state[name][index] = self._draw(name, key, episode, number)
        self.state["episode"][index] += np.uint64(1)
        self.state["frame"][index] = 1

    def parse_options(self, options: Mapping[str, Any]) -> dict[str, npt.NDArray[np.int64]]:
        """Check the start values in a reset's options and return them as arrays [B, ...]."""
        unknown = sorted(set(options) - set(self.starts))
        if unknown:
            raise ValueError(f"unknown reset options {unknown}; known: {list(self.starts)}")
        return {name: self._check(name, name, value) for name, value in options.items()}

    def get_state(self) -> State:
        """Return a copy of the state."""
        return {name: array.copy() for name, array in self.state.items()}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a state from `get_state` of this batch, or of another one of the same game and size."""
        if set(state) != set(self.state):
            raise ValueError(f"state must have the keys {sorted(self.state)}, got {sorted(state)}")
        for name, array in self.state.items():
            value = np.asarray(state[name])
            expected, got = (f"{a.dtype} of shape {a.shape}" for a in (array, value))
            if got != expected:
                raise ValueError(f"state[{name!r}] must be {expected}, got {got}")
            if name in self.ranges:
                self._check(f"state[{name!r}]", name, value)
        self.state = {name: np.array(state[name]) for name in self.state}

    def _draw(
        self, name: str, key: npt.NDArray[np.uint64], episode: npt.NDArray[np.uint64], number: int
    ) -> npt.NDArray[np.int64]:
        """Draw the `number`-th start value, `name`, at random for each `episode` [b] with its `key` [b]: [b, ...]."""
        shape = self.state[name].shape[1:]
        every = len(self.starts)
        if name in self.distinct:
            things = np.arange(self.ranges[name])
            return draw_order(key, episode, number + every * things)[:, : shape[0]]
        numbers = number + every * np.arange(shape[0] if shape else 1)
        return draw(key, episode, numbers, self.ranges[name]).reshape(len(key), *shape)

    def _check(self, label: str, name: str, value: object) -> npt.NDArray[np.int64]:
        """Check the numbers given for the variable `name` and return them as an array of its shape."""
        checked = whole_numbers(label, value, self.state[name].shape, self.ranges[name])
        if name in self.distinct and (np.diff(np.sort(checked, axis=1)) == 0).any():
            raise ValueError(f"{label} must be different numbers, got {value!r}")
        return checked
