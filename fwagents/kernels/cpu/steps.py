"""Ba's scan one step at a time, without autograd; it keeps the keys since the last fold, and folds if that pays."""

import torch
from torch import Tensor

from fwagents.kernels.cpu.kernels import scan_kernels
from fwagents.kernels.cpu.layout import decay_tables
from fwagents.kernels.cpu.memory import borrowed
from fwagents.kernels.cpu.problem import GROUP, Problem, forward_scratch, packed_floats
from fwagents.kernels.cpu.scan import describe, layout_of, padded_matrix
from fwagents.kernels.cpu.threads import run, tasks
from fwagents.kernels.reference import ScanInputs, ScanOptions
from fwagents.kernels.tensors import address, dense


class ScanSteps:
    """A scan that runs one step at a call.

    A read attends to the keys since the last fold. The keys are folded into A only when reading A costs less. Rows
    without a fold in the current episode have no A to read.

    Args:
        weights: W, C, b and the layer norm's gain and shift, by their names in ``ScanInputs``.
        options: see ``ScanOptions``.
        batch: B.
    """

    def __init__(self, weights: dict[str, Tensor], options: ScanOptions, batch: int) -> None:
        size, width = weights["weight_ih"].shape
        self.weights = weights
        self.versions: tuple[tuple[int, int], ...] = ()
        self.capacity = max(64, size)
        inputs = ScanInputs(borrowed(1, batch, width), **weights)
        plan = layout_of(inputs, options, False)
        self.tables = decay_tables(options.decay, options.fast_lr, self.capacity)
        self.workspace = borrowed(plan.floats)
        self.keys = borrowed(batch, self.capacity + GROUP, plan.row)
        self.memory = torch.zeros(batch, 2, dtype=torch.int64)
        self.h = inputs.weight_hh.new_zeros(batch, size)
        self.folded: Tensor | None = None
        plan = plan._replace(longest=self.capacity)
        problem = describe(inputs, (1, batch, size), plan, options, self.tables, self.workspace)
        self.problem = problem._replace(
            key_rows=self.capacity + GROUP,
            keys=self.keys.data_ptr(),
            h=self.h.data_ptr(),
            h_out=self.h.data_ptr(),
            memory=self.memory.data_ptr(),
        )
        self.packed = borrowed(packed_floats(self.problem))
        self.problem = self.problem._replace(packed=self.packed.data_ptr())
        self.count = tasks(batch, 2 * plan.work)
        self.floats = forward_scratch(self.problem)
        self.scratch = borrowed(self.count, self.floats)
        self._pack()

    def _pack(self) -> None:
        """Pack the weights again if they were changed in place or replaced, for example by an optimiser."""
        versions = tuple((x.data_ptr(), x._version) for x in self.weights.values())
        if versions == self.versions:
            return
        self.versions = versions
        held = {name: x.contiguous() for name, x in self.weights.items()}
        at = {name.removesuffix("_hh"): x.data_ptr() for name, x in held.items()}
        scan_kernels().prepared(self.problem._replace(**at), self.packed.data_ptr())

    def load(self, h: Tensor, A: Tensor | None = None) -> None:
        """Continue from a state; an ``A`` of None is zero."""
        self.h.copy_(h.detach())
        row = self.keys.shape[-1]
        self.folded = None if A is None else padded_matrix(A.detach().clone(), row)
        self.problem = self.problem._replace(offset=0, A=address(self.folded))

    def state(self) -> tuple[Tensor, Tensor]:
        """Return copies of h and A after the steps so far."""
        batch, size = self.h.shape
        A = borrowed(batch, size, size)
        self._fold(A, padded=False)
        return self.h.clone(), A

    def _fold(self, out: Tensor, padded: bool) -> None:
        problem = self.problem._replace(steps=0)
        if problem.offset == 0:  # the forward pass would set the memory only at its first step
            row = self.keys.shape[-1]
            self.memory[:, 0] = 0
            at = torch.arange(len(self.h)) * (4 * row * row) + problem.A
            self.memory[:, 1] = at if problem.A else 0

        def task(begin: int, end: int, which: int) -> None:
            at = self.scratch.data_ptr() + 4 * self.floats * which
            scan_kernels().final(problem, out.data_ptr(), int(padded), begin, end, at)

        run(task, len(self.h), self.count, (self, out))

    def step(self, x: Tensor, start: Tensor | None) -> Tensor:
        """Run one step: ``x [B, D]``, ``start`` bool [B] -> y [B, R]."""
        self._pack()
        problem = self.problem
        if problem.offset == (self.capacity if problem.A == 0 else problem.fold_every):
            problem = self._folded()
        x = x.contiguous()
        y = torch.empty_like(self.h)
        start = dense(start)
        now = problem._replace(drive=x.data_ptr(), y=y.data_ptr(), marks=address(start))  # True is RESET
        forward, at, floats = scan_kernels().forward, self.scratch.data_ptr(), 4 * self.floats
        if self.count == 1:
            forward(now, 0, len(y), at)
        else:
            run(
                lambda begin, end, which: forward(now, begin, end, at + floats * which),
                len(y),
                self.count,
                (self, x, start, y),
            )
        self.problem = problem._replace(offset=problem.offset + 1)
        return y

    def _folded(self) -> Problem:
        row = self.keys.shape[-1]
        if self.folded is None:
            self.folded = borrowed(len(self.h), row, row)
        self._fold(self.folded, padded=True)
        return self.problem._replace(offset=0, A=self.folded.data_ptr())
