"""A batch of episodes of one game, held as plain arrays: the one place where a game's rules are written.

`GameEnv` plays a batch of one and `GameVectorEnv` a batch of many, so they cannot disagree.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .arguments import whole_numbers
from .draws import draw
from .render import Scene

Index: TypeAlias = "slice | npt.NDArray[np.intp]"
"""Which games of the batch: `ALL`, or their numbers."""
ALL = slice(None)
State: TypeAlias = dict[str, npt.NDArray[Any]]
Screens: TypeAlias = npt.NDArray[np.uint8]


class Game(ABC):
    """`num_games` games under way.

    `state` holds all that changes, every array [num_games]: `key` and `episode` (see `draws`), `frame` (the number of
    the current frame; 1 after a reset and 0 before the first one) and what the game adds.

    Args:
        num_games: size of the batch, B.
        ranges: for each whole number the game keeps, how many values (from 0) it can take; among them `frame`.
        starts: those of them that chance decides, uniformly, when an episode begins, and that a reset's options may
            set.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Discrete

    def __init__(self, num_games: int, ranges: Mapping[str, int], starts: tuple[str, ...]) -> None:
        self.num_games = num_games
        self.ranges = dict(ranges)
        self.starts = starts
        self.state: State = {name: np.zeros(num_games, np.uint64) for name in ("key", "episode")}
        self.state.update({name: np.zeros(num_games, np.int64) for name in ranges})

    @abstractmethod
    def advance(self, index: Index, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Play one frame of the games at `index` with valid `actions` and return their rewards."""

    @abstractmethod
    def ended(self) -> npt.NDArray[np.bool_]:
        """Which games [B] have ended."""

    @abstractmethod
    def succeeded(self) -> npt.NDArray[np.bool_]:
        """Which games [B] have succeeded, if they have ended."""

    @abstractmethod
    def observe(self) -> Screens:
        """What the player of each game sees [B, ...], in new memory."""

    @abstractmethod
    def scene(self, number: int) -> Scene:
        """What a spectator of one game sees."""

    def reseed(self, index: Index, keys: "np.uint64 | npt.NDArray[np.uint64]") -> None:
        """Begin new sequences of episodes at `index`."""
        self.state["key"][index] = keys
        self.state["episode"][index] = 0

    def begin(self, index: Index, given: Mapping[str, npt.NDArray[np.int64]] | None = None) -> None:
        """Begin the next episode of the games at `index`, where `given` [B each] says so and else where chance says."""
        key, episode = self.state["key"][index], self.state["episode"][index]
        for number, name in enumerate(self.starts):
            if given and name in given:
                self.state[name][index] = given[name][index]
            else:
                self.state[name][index] = draw(key, episode, number, self.ranges[name])
        self.state["episode"][index] += np.uint64(1)
        self.state["frame"][index] = 1

    def parse_options(self, options: Mapping[str, Any]) -> dict[str, npt.NDArray[np.int64]]:
        """The starting places among a reset's options, checked, as arrays [B]."""
        unknown = sorted(set(options) - set(self.starts))
        if unknown:
            raise ValueError(f"unknown reset options {unknown}; known: {list(self.starts)}")
        return {name: whole_numbers(name, value, self.num_games, self.ranges[name]) for name, value in options.items()}

    def get_state(self) -> State:
        """A copy of the state."""
        return {name: array.copy() for name, array in self.state.items()}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `get_state` returned, here or in another batch of the same game and size."""
        if set(state) != set(self.state):
            raise ValueError(f"state must have the keys {sorted(self.state)}, got {sorted(state)}")
        for name, array in self.state.items():
            value = np.asarray(state[name])
            expected, got = (f"{a.dtype} of shape {a.shape}" for a in (array, value))
            if got != expected:
                raise ValueError(f"state[{name!r}] must be {expected}, got {got}")
            if name in self.ranges:
                whole_numbers(f"state[{name!r}]", value, self.num_games, self.ranges[name])
        self.state = {name: np.array(state[name]) for name in self.state}
