"""The common base of all memory cores: their protocol, the reset rule and the time loop."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from fwagents.cores.stepper import Stepper
from fwagents.cores.stretches import groups

StateT = TypeVar("StateT", bound=tuple[Any, ...])


class HiddenState(NamedTuple):
    """State of a core that carries its output alone: ``h [B, H]``."""

    h: Tensor


class MemoryCore(nn.Module, ABC, Generic[StateT]):
    """A recurrent layer whose state is a NamedTuple of tensors ``[B, ...]``.

    T is time, B the batch, D ``input_size``, H ``output_size``. A subclass defines ``state_type``, ``state_shapes`` and
    one of three methods; the base class derives everything else from it:

    - ``cell``, one step, which is enough;
    - ``stretch``, if many steps can be computed faster than one by one;
    - ``scan``, if the core can also reset rows itself.

    ``start[t, b]`` says that ``x[t, b]`` opens an episode: row b is reset to its initial state *before* that input is
    consumed. So several episodes can follow each other in one row of a batch, and nothing passes between them.

    Args:
        input_size: D.
        hidden_size: H.
    """

    state_type: type[StateT]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if all(getattr(cls, name) is getattr(MemoryCore, name) for name in ("cell", "stretch", "scan")):
            raise TypeError(f"{cls.__name__} has no cell, no stretch and no scan, expected one of them")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = positive_int("input_size", input_size)
        self.hidden_size = positive_int("hidden_size", hidden_size)

    @property
    def output_size(self) -> int:
        """H, the width of the outputs of ``forward`` and ``step``."""
        return self.hidden_size

    @property
    @abstractmethod
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each leaf of the state, for one row."""

    def cell(self, x: Tensor, state: StateT) -> tuple[Tensor, StateT]:
        """Run one step without a reset: ``x [B, D]`` -> ``(y [B, H], state)``."""
        y, state = self.scan(x.unsqueeze(0), state, None)
        return y.squeeze(0), state

    def stretch(self, x: Tensor, state: StateT) -> tuple[Tensor, StateT]:
        """Run steps without a reset: ``x [T, B, D]`` -> ``(y [T, B, H], state)``."""
        ys = []
        for x_t in x:
            y, state = self.cell(x_t, state)
            ys.append(y)
        return torch.stack(ys), state

    def scan(self, x: Tensor, state: StateT, start: Tensor | None) -> tuple[Tensor, StateT]:
        """Run steps with resets: ``x [T, B, D]``, ``start`` bool [T, B] or None -> ``(y [T, B, H], state)``.

        Here the stretches between resets run in parallel, in batches of similar length, so the loops over time are as
        long as these stretches, not as the sequence.
        """
        if start is None:
            return self.stretch(x, state)
        if not start[1:].any():
            return self.stretch(x, self.reset(state, start[0]))
        flat = x.flatten(0, 1)
        ys, places, ends, end_rows = [], [], [], []
        for group in groups(start):
            opening = self._state(leaf.index_select(0, group.rows) for leaf in state)
            if group.fresh is not None:
                opening = self.reset(opening, group.fresh)
            y, end = self.stretch(flat.index_select(0, group.steps).view(-1, len(group.rows), x.shape[-1]), opening)
            ys.append(y.flatten(0, 1).index_select(0, group.kept))
            places.append(group.steps[group.kept])
            if group.last:
                ends.append(end)
                end_rows.append(group.rows)
        order = torch.cat(places).argsort()
        row_order = torch.cat(end_rows).argsort()
        return (
            torch.cat(ys).index_select(0, order).view(*x.shape[:2], -1),
            self._state(torch.cat(leaves).index_select(0, row_order) for leaves in zip(*ends, strict=True)),
        )

    def initial_state(self, batch_size: int) -> StateT:
        """Return the state in which an episode begins, on the core's device and in its dtype; zero by default."""
        batch_size = positive_int("batch_size", batch_size)
        like = next(self.parameters())
        return self._state(like.new_zeros(batch_size, *shape) for shape in self.state_shapes)

    @property
    def state_size(self) -> int:
        """Number of elements in the state of one row."""
        return sum(math.prod(shape) for shape in self.state_shapes)

    def reset(self, state: StateT, start: Tensor) -> StateT:
        """Return the state with every row of ``start`` (bool [B]) reset to its initial value.

        This uses ``torch.where``, never a product: a NaN from a finished episode times zero is still NaN.
        """
        initial = self.initial_state(len(start))
        return self._state(
            torch.where(start.reshape(-1, *[1] * (leaf.dim() - 1)), fresh, leaf)
            for fresh, leaf in zip(initial, state, strict=True)
        )

    def forward(self, x: Tensor, state: StateT | None = None, start: Tensor | None = None) -> tuple[Tensor, StateT]:
        """Run over a sequence.

        Args:
            x: inputs [T, B, D], T and B at least 1.
            state: state before the first step; None is the initial state.
            start: bool [T, B], True where a step opens an episode; None is nowhere.

        Returns:
            Outputs [T, B, H] and the state after the last step.

        Raises:
            ValueError: a shape or dtype is not as above; the message names it.
        """
        self._check_sequence(x, state, start)
        state = self._opening(x.shape[1]) if state is None else state
        return self.scan(x, state, start)

    def step(self, x: Tensor, state: StateT, start: Tensor | None = None) -> tuple[Tensor, StateT]:
        """Run one step: ``x [B, D]``, ``start`` bool [B] -> ``(y [B, H], state)``; see ``forward``."""
        self._check_step(x, state, start)
        y, state = self.scan(x.unsqueeze(0), state, None if start is None else start.unsqueeze(0))
        return y.squeeze(0), state

    def stepper(self, start_from: StateT | int) -> Stepper[StateT]:
        """Return a ``Stepper``, which steps the core without gradients, from a state or from a number of new rows."""
        state = start_from if isinstance(start_from, tuple) else self.initial_state(start_from)
        self._check_state(state, len(state[0]))
        return Stepper(self, state)

    def _opening(self, batch_size: int) -> StateT:
        """Return the state that ``forward`` begins with if it is given none; here the initial state."""
        return self.initial_state(batch_size)

    def _state(self, leaves: Iterable[Tensor]) -> StateT:
        return cast(StateT, cast(Any, self.state_type)._make(leaves))

    def _check(self, state: StateT | None, start: Tensor | None, steps: torch.Size) -> None:
        if state is not None:
            self._check_state(state, steps[-1])
        if start is not None and (start.shape != steps or start.dtype != torch.bool):
            raise ValueError(
                f"start is {start.dtype} of shape {tuple(start.shape)}, expected torch.bool of shape {tuple(steps)}"
            )

    def _check_sequence(self, x: Tensor, state: StateT | None, start: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[-1] != self.input_size or 0 in x.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected [T, B, {self.input_size}] with T and B at least 1"
            )
        self._check(state, start, x.shape[:-1])

    def _check_step(self, x: Tensor, state: StateT, start: Tensor | None) -> None:
        self._check_input(x)
        self._check_state(state, len(x))
        self._check(None, start, x.shape[:-1])

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[-1] != self.input_size or 0 in x.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected [B, {self.input_size}] with B at least 1")

    def _check_state(self, state: StateT, batch_size: int) -> None:
        if not isinstance(state, self.state_type):
            raise ValueError(f"state is a {type(state).__name__}, expected a {self.state_type.__name__}")
        for name, leaf, shape in zip(cast(Any, state)._fields, state, self.state_shapes, strict=True):
            if leaf.shape != (batch_size, *shape):
                raise ValueError(f"state.{name} has shape {tuple(leaf.shape)}, expected {(batch_size, *shape)}")


def integer(name: str, value: object, low: int | None = None) -> int:
    """Return ``value``, which may be NumPy's, as an int; raise ValueError if it is not an integer or below ``low``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or (low is not None and value < low):
        least = "" if low is None else f" of at least {low}"
        raise ValueError(f"{name} is {value!r}, expected an integer{least}")
    return int(value)


def positive_int(name: str, value: object) -> int:
    """Return ``value`` as an int; raise ValueError if it is not an integer of at least 1."""
    return integer(name, value, 1)


def boolean(name: str, value: object) -> bool:
    """Return ``value``; raise ValueError if it is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected True or False")
    return value


def finite_float(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value`` as a float; raise ValueError if it is not a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, expected a finite number")
    number = float(value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {value!r}, expected a number in [{low}, {high}]")
    return number
