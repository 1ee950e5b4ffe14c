"""The scan of the fast-weight programmers one step at a time, without autograd; W is updated in place."""

from collections.abc import Callable

import torch
from torch import Tensor

from fwagents.kernels.cpu.kernels import program_kernels
from fwagents.kernels.cpu.memory import borrowed
from fwagents.kernels.cpu.program_layout import describe, layout_of, sections_of, turn_rows
from fwagents.kernels.cpu.program_problem import places
from fwagents.kernels.cpu.programmer import mix_rows
from fwagents.kernels.cpu.threads import run, tasks
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions


class ProgramSteps:
    """A scan that runs one step at a call. A step allocates nothing but its outputs.

    Args:
        weights: returns the weights by their names in ``ProgramInputs``.
        parameters: tensors from which ``weights`` is computed; if one has changed, ``weights`` is called again.
        options: see ``ProgramOptions``.
        width: D.
        batch: B.
    """

    def __init__(
        self,
        weights: Callable[[], dict[str, Tensor]],
        parameters: tuple[Tensor, ...],
        options: ProgramOptions,
        width: int,
        batch: int,
    ) -> None:
        self.weights, self.parameters, self.options = weights, parameters, options
        self.versions: tuple[tuple[int, int], ...] = ()
        self.held = {
            name: torch.empty_like(x, memory_format=torch.contiguous_format) for name, x in self._now().items()
        }
        self.t_in, self.t = borrowed(batch, 1), borrowed(batch, 1)
        inputs = ProgramInputs(x=borrowed(1, batch, width), t=self.t_in, **self.held)
        self.plan = plan = layout_of(inputs, options)
        self.recent = borrowed(batch, plan.conv - 1, 3 * plan.H)
        self.W = borrowed(batch, options.heads, plan.row, plan.row)
        self.start = torch.empty(batch, dtype=torch.bool, device="cpu")
        workspace, self.y = borrowed(sum(plan.sections[:-1])), borrowed(batch, plan.H)
        problem, self.memory, self.turned, self.alive = describe(inputs, options, plan, workspace, self.y)
        self.problem = problem._replace(
            held=1,
            recent=self.recent.data_ptr(),
            recent_out=self.recent.data_ptr(),
            W=self.W.data_ptr(),
            t_out=self.t.data_ptr(),
        )
        self.starting = self.problem._replace(start=self.start.data_ptr())
        self.z, _, self.normed, self.mixed = sections_of(workspace, plan)
        self.places = places(self.problem, False)
        self.count = tasks(batch, plan.work)
        self.scratch = borrowed(self.count, self.places.floats)

    @torch.no_grad()
    def _now(self) -> dict[str, Tensor]:
        return self.weights()

    def _follow(self) -> None:
        """Copy the weights again if a parameter was changed, for example by an optimiser."""
        versions = tuple((x.data_ptr(), x._version) for x in self.parameters)
        if versions != self.versions:
            self.versions = versions
            for name, x in self._now().items():
                self.held[name].copy_(x)

    def load(self, recent: Tensor, W: Tensor, t: Tensor | None = None) -> None:
        """Continue from a state; a ``t`` of None leaves the step count unchanged."""
        self.recent.copy_(recent)
        self.W.zero_()[..., : self.plan.size, : self.plan.out] = W.mT
        self.memory.zero_()
        if t is None:
            return
        self.t_in.copy_(t)
        self.t.copy_(t)
        if self.turned is not None:
            self.turned.copy_(turn_rows(self.t.view(-1), self.options.turns, self.plan.row))

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return copies of recent, W and t after the steps so far."""
        W = self.W[..., : self.plan.size, : self.plan.out].mT.clone(memory_format=torch.contiguous_format)
        return self.recent.clone(), W, self.t.clone()

    def step(self, x: Tensor, start: Tensor | None) -> Tensor:
        """Run one step: ``x [B, D]``, ``start`` bool [B] -> y [B, H]."""
        self._follow()
        held, compiled, problem = self.held, program_kernels(), self.problem
        if start is not None:
            self.start.copy_(start)
            problem = self.starting
        torch.addmm(held["bias"], x, held["weight"].t(), out=self.z)
        at, scratch, floats = self.places, self.scratch.data_ptr(), 4 * self.places.floats
        if self.count == 1:
            compiled.forward(problem, at, 0, 1, 0, len(self.y), scratch)
        else:

            def task(first: int, last: int, which: int) -> None:
                compiled.forward(problem, at, 0, 1, first, last, scratch + floats * which)

            run(task, len(self.y), self.count, (self.alive, self.W, self.recent, self.t, self.start, self.scratch))
        y = torch.empty_like(self.y)
        if "mix" not in held:
            return y.copy_(self.y)
        torch.addmm(held["mix_bias"], self.normed, held["mix"].t(), out=self.mixed)
        mix_rows(self.plan, slice(0, len(y)), self.z, self.mixed, y, None, None, None)
        return y
