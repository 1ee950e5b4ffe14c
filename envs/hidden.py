"""Known environments with a part of the observation hidden, so that they need memory."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.utils import RecordConstructorArgs

Vector = npt.NDArray[Any]

CART_POLE = ("cart position", "cart velocity", "pole angle", "pole angular velocity")
PENDULUM = ("cosine", "sine", "angular velocity")


class HideObservation(gymnasium.ObservationWrapper[Vector, Any, Vector], RecordConstructorArgs):
    """Removes some entries from a vector observation and from its space.

    Rewards, ends and infos are unchanged.

    Args:
        env: environment whose observation space is a one-dimensional Box.
        hidden: entries to hide, each by its index or by its name.
        names: names of all entries in order; without names, entries can only be given by index.

    Raises:
        TypeError: the observation space is not a one-dimensional Box, or an entry is neither index nor name.
        ValueError: an entry does not exist or is given twice, or all or no entries are hidden.
    """

    def __init__(
        self,
        env: gymnasium.Env[Vector, Any],
        hidden: Sequence[int | str],
        names: Sequence[str] | None = None,
    ) -> None:
        # Recorded as lists, so that a specification read from JSON equals this one.
        RecordConstructorArgs.__init__(self, hidden=_recorded(hidden), names=_recorded(names))
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise TypeError(f"the observation space must be a one-dimensional Box, got {space}")
        size = space.shape[0]
        if names is not None and len(names) != size:
            raise ValueError(f"names must be {size}, one for each entry, got {len(names)}: {tuple(names)!r}")
        if isinstance(hidden, str):
            raise TypeError(f"hidden must be a sequence of entries, got the string {hidden!r}")
        gone = [_index(entry, size, names) for entry in hidden]
        if len(set(gone)) != len(gone) or not 0 < len(gone) < size:
            raise ValueError(f"hidden must be from 1 to {size - 1} different entries of {size}, got {tuple(hidden)!r}")
        self._shown = np.delete(np.arange(size), gone)
        self._names = None if names is None else [names[int(place)] for place in self._shown]
        dtype: Any = space.dtype
        self.observation_space = spaces.Box(space.low[self._shown], space.high[self._shown], dtype=dtype)

    def get_observation_meanings(self) -> list[str] | None:
        """The names of the entries that are not hidden, in order; None if the entries have no names."""
        return self._names

    def observation(self, observation: Vector) -> Vector:
        """Return the entries that are not hidden."""
        shown: Vector = observation[self._shown]
        return shown


def _recorded(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _index(entry: object, size: int, names: Sequence[str] | None) -> int:
    """Return the index of an entry given by index or by name."""
    if isinstance(entry, str):
        if names is None:
            raise ValueError(f"hidden has the name {entry!r}, expected indices: no names were given")
        if entry not in names:
            raise ValueError(f"hidden has the name {entry!r}, expected one of {', '.join(map(repr, names))}")
        return list(names).index(entry)
    if isinstance(entry, bool | np.bool_) or not isinstance(entry, int | np.integer):
        raise TypeError(f"hidden must be made of indices and names, got {entry!r}")
    if not 0 <= entry < size:
        raise ValueError(f"hidden has the index {entry}, expected one from 0 to {size - 1}")
    return int(entry)


class _Restorable(gymnasium.Env[Vector, Any]):
    """A Gymnasium environment whose state can be saved and restored."""

    changing: ClassVar[tuple[str, ...]]  # attributes that a reset or a step changes

    def get_state(self) -> dict[str, Any]:
        """Return the state with the random generator; after `set_state` an environment continues identically."""
        kept = {name: copy.deepcopy(getattr(self, name)) for name in self.changing}
        return {**kept, "generator": copy.deepcopy(self.np_random)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `get_state` returned."""
        for name in self.changing:
            setattr(self, name, copy.deepcopy(state[name]))
        self.np_random = copy.deepcopy(state["generator"])


class _CartPole(CartPoleEnv, _Restorable):
    changing = ("state", "steps_beyond_terminated")


class _Pendulum(PendulumEnv, _Restorable):
    changing = ("state", "last_u")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state, self.last_u = np.zeros(2), None  # Gymnasium sets these only in the first reset


def cart_pole_no_vel(**kwargs: Any) -> HideObservation:
    """Make Gymnasium's CartPole without its two velocities.

    ## Description
    A pole stands on a cart and has to be kept upright, as in `CartPole-v1`. The player sees positions but not
    velocities, so it has to remember earlier positions. A memoryless player keeps the pole up for about fifty steps.

    ## Action Space
    `Discrete(2)`: 0 pushes the cart to the left, 1 to the right.

    ## Observation Space
    `Box(2,)`, float32: cart position and pole angle (radians), bounded as in `CartPole-v1`.

    ## Starting State
    As in `CartPole-v1`: all four quantities, including the hidden ones, are uniform from -0.05 to 0.05;
    `reset(options={"low": ..., "high": ...})` sets the bounds.

    ## Rewards
    1 for every step. The best return is 500; solved at 475.

    ## Episode End
    Terminated when the pole leans by more than 12 degrees or the cart is more than 2.4 from the middle. Truncated after
    500 steps.

    ## Information
    None.

    ## Arguments
    - `render_mode` (None): "human" or "rgb_array".
    - `sutton_barto_reward` (False): as in `CartPole-v1`.

    ## Version History
    - v1: first version, numbered as the original environment.
    """
    return HideObservation(_CartPole(**kwargs), ["cart velocity", "pole angular velocity"], CART_POLE)


def pendulum_no_vel(**kwargs: Any) -> HideObservation:
    """Make Gymnasium's Pendulum without its angular velocity.

    ## Description
    A pendulum has to be swung up and held upright, as in `Pendulum-v1`. The player sees its angle but not its velocity.

    ## Action Space
    `Box(-2, 2, (1,), float32)`: the torque.

    ## Observation Space
    `Box(-1, 1, (2,), float32)`: cosine and sine of the angle, which is 0 upright.

    ## Starting State
    As in `Pendulum-v1`: the angle is uniform from -pi to pi, the velocity from -1 to 1; `reset(options={"x_init": ...,
    "y_init": ...})` sets the bounds.

    ## Rewards
    -(angle^2 + 0.1 velocity^2 + 0.001 torque^2) in every step; the best is 0.

    ## Episode End
    Never terminated. Truncated after 200 steps.

    ## Information
    None.

    ## Arguments
    - `render_mode` (None): "human" or "rgb_array".
    - `g` (10.0): acceleration of gravity.

    ## Version History
    - v1: first version, numbered as the original environment.
    """
    return HideObservation(_Pendulum(**kwargs), ["angular velocity"], PENDULUM)
