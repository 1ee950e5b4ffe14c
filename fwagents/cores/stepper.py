"""Steppers, which run a core one step at a time, as an agent in its environment needs it."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from fwagents.kernels.tensors import float32_on_cpu

if TYPE_CHECKING:
    from fwagents.cores.base import MemoryCore

StateT = TypeVar("StateT", bound=tuple[Any, ...])


class Stepper(Generic[StateT]):
    """Run a core without autograd, and hold its state in the form that is fastest to step.

    ``MemoryCore.stepper`` makes a stepper. It returns the same outputs and states as ``MemoryCore.step``, also after
    the core's parameters have changed.
    """

    def __init__(self, core: "MemoryCore[StateT]", state: StateT) -> None:
        self.core = core
        self.rows = len(state[0])
        self._load(state)

    @property
    def state(self) -> StateT:
        """The state after the last step; safe to keep, later steps do not change it."""
        return self._state

    def load(self, state: StateT) -> None:
        """Continue from another state with the same number of rows."""
        self.core._check_state(state, self.rows)
        self._load(state)

    def _load(self, state: StateT) -> None:
        self._state = cast(StateT, cast(Any, type(state))._make(leaf.detach() for leaf in state))

    @torch.no_grad()
    def step(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Run one step: ``x [B, D]``, ``start`` bool [B] -> y [B, H]."""
        y, self._state = self.core.step(x, self._state, start)
        return y


class CompiledStepper(Stepper[StateT]):
    """Run the steps of a compiled scan. A subclass sets ``_steps`` before it calls this ``__init__``."""

    _steps: Any

    @torch.no_grad()
    def step(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Run one step: ``x [B, D]``, ``start`` bool [B] -> y [B, H]."""
        self.core._check_input(x)
        self.core._check(None, start, x.shape[:-1])
        if torch.is_autocast_enabled("cpu"):
            x = x.float()  # an encoder's output is less precise under autocast
        if len(x) != self.rows or not float32_on_cpu(x):
            raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}, expected {self.rows} rows of float32")
        y: Tensor = self._steps.step(x, start)
        return y
