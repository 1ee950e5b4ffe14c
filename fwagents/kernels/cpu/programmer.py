"""The scan of the fast-weight programmers on the CPU, as a differentiable torch operator.

Torch computes the products with weights, one for many steps; the compiled kernels do the rest. Both process the
sequence in blocks of steps, so that each finds the other's results in the cache.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fwagents.kernels.cpu.kernels import program_kernels
from fwagents.kernels.cpu.memory import borrowed
from fwagents.kernels.cpu.program_layout import Layout, describe, layout_of, sections_of, sizes
from fwagents.kernels.cpu.program_problem import (
    ProgramGradients,
    places,
)
from fwagents.kernels.cpu.threads import run, tasks
from fwagents.kernels.operator import CompiledScan
from fwagents.kernels.program_reference import ProgramInputs, ProgramOptions, ProgramResult, loop_form
from fwagents.kernels.tensors import address, dense, float32_on_cpu


def covers(*tensors: Tensor | None) -> bool:
    """Return whether the compiled scan can run: float32, on the CPU, in plain reverse mode without autocast."""
    if torch.is_autocast_enabled("cpu") or not float32_on_cpu(*tensors):
        return False
    return torch.compiler.is_compiling() or forward_ad._current_level < 0


def _dense(inputs: ProgramInputs) -> ProgramInputs:
    return ProgramInputs(*map(dense, inputs))  # type: ignore[arg-type]


def forward_pass(
    inputs: ProgramInputs, options: ProgramOptions, traced: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return y, recent, W, t and the trace, which is empty unless ``traced``."""
    compiled, plan, inputs = program_kernels(), layout_of(inputs, options), _dense(inputs)
    T, B, H = plan.T, plan.B, plan.H
    x = inputs.x.view(T * B, -1)
    trace, y = borrowed(sum(plan.sections[:-1]) + (plan.sections[-1] if traced else 0)), borrowed(T, B, H)
    recent, W = borrowed(B, plan.conv - 1, 3 * H), borrowed(B, options.heads, plan.out, plan.size)
    t, held = x.new_empty(B, 1), borrowed(B, options.heads, plan.row, plan.row)
    problem, *_, alive = describe(inputs, options, plan, trace, y)
    problem = problem._replace(
        traced=int(traced),
        W=held.data_ptr(),
        recent_out=recent.data_ptr(),
        W_out=W.data_ptr(),
        t_out=t.data_ptr(),
    )
    at = places(problem, False)
    count = tasks(B, plan.work)
    scratch = borrowed(count, at.floats)
    z, _, normed, mixed = sections_of(trace, plan)
    for begin in range(0, T, plan.block):
        end = min(begin + plan.block, T)
        rows = slice(begin * B, end * B)
        torch.addmm(inputs.bias, x[rows], inputs.weight.t(), out=z[rows])

        def task(first: int, last: int, which: int, begin: int = begin, end: int = end) -> None:
            compiled.forward(problem, at, begin, end, first, last, scratch.data_ptr() + 4 * at.floats * which)

        run(task, B, count, (alive, recent, W, t, held, scratch))
        if inputs.mix is not None:
            torch.addmm(cast(Tensor, inputs.mix_bias), normed[rows], inputs.mix.t(), out=mixed[rows])
            mix_rows(plan, rows, z[rows], mixed[rows], y.view(T * B, H)[rows], None, None, None)
    return y, recent, W, t, trace if traced else x.new_empty(0)


def mix_rows(
    plan: Layout,
    rows: slice,
    z: Tensor,
    mixed: Tensor,
    out: Tensor | None,
    dout: Tensor | None,
    dmixed: Tensor | None,
    dz: Tensor | None,
) -> None:
    """Compute the output gate of some rows, or its derivative, on as many threads as the work is worth."""
    H, width, compiled = plan.H, plan.width, program_kernels()
    addresses = [address(x) for x in (out, dout, dmixed, dz)]
    steps = [4 * H, 4 * H, 4 * H, 4 * width]
    column = width - 2 * H

    def task(begin: int, end: int, which: int) -> None:
        moved = [a + begin * step if a else 0 for a, step in zip(addresses, steps, strict=True)]
        z_at, mixed_at = z.data_ptr() + 4 * width * begin, mixed.data_ptr() + 4 * H * begin
        compiled.mix(end - begin, H, z_at, width, column, mixed_at, *moved)

    count = rows.stop - rows.start
    run(task, count, tasks(count, 8 * count * H), (z, mixed, out, dout, dmixed, dz))


def backward_pass(
    gradients: Sequence[Tensor | None],
    kept: Sequence[Tensor],
    trace: Tensor,
    inputs: ProgramInputs,
    options: ProgramOptions,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients at the inputs; see ``CompiledScan``.

    The gradient at x is skipped if it is not wanted; the others cost nothing extra.
    """
    with torch.autocast("cpu", enabled=False):
        return _backward(gradients, kept, trace, inputs, options, wanted[0])


def _backward(
    gradients: Sequence[Tensor | None],
    kept: Sequence[Tensor],
    trace: Tensor,
    inputs: ProgramInputs,
    options: ProgramOptions,
    wants_x: bool,
) -> list[Tensor | None]:
    (dy, drecent, dW, dt), (y, W) = gradients, kept
    compiled, plan, inputs = program_kernels(), layout_of(inputs, options), _dense(inputs)
    T, B, H, width, heads, row = plan.T, plan.B, plan.H, plan.width, options.heads, plan.row
    x, has_mix = inputs.x.view(T * B, -1), inputs.mix is not None
    dy = torch.zeros_like(y) if dy is None else dy.contiguous()
    drecent, dW = dense(drecent), dense(dW)
    problem, *_, alive = describe(inputs, options, plan, trace, y)
    at = places(problem, True)
    count = tasks(B, 2 * plan.work)
    scratch = borrowed(count, at.floats)
    G, carry = borrowed(B, heads, row, row), borrowed(B, heads, 3, plan.conv - 1, row)
    scale = x.new_zeros(B, heads) if dW is None else (dW * W).sum((2, 3))
    tail = torch.empty(B, dtype=torch.int64, device="cpu")
    dtaps, dnorm = borrowed(count, plan.conv, 3 * H), borrowed(count, 2, H)
    d_recent = None if inputs.recent is None else torch.empty_like(inputs.recent)
    d_W = None if inputs.W is None else torch.empty_like(inputs.W)
    block = min(plan.block, T) * B
    dz, dmixed, dreads = borrowed(block, width), borrowed(block, H), borrowed(block, H)
    dweight, dbias = x.new_empty(width, x.shape[1]), x.new_empty(width)
    dmix, dmix_bias = (x.new_empty(H, H), x.new_empty(H)) if has_mix else (None, None)
    dx = borrowed(*inputs.x.shape) if wants_x else None
    z, _, normed, mixed = sections_of(trace, plan)
    to = ProgramGradients(
        y=dy.data_ptr(),
        recent_out=address(drecent),
        W_out=address(dW),
        G=G.data_ptr(),
        scale=scale.data_ptr(),
        carry=carry.data_ptr(),
        tail=tail.data_ptr(),
        z=0,
        taps=dtaps.data_ptr(),
        norm=dnorm.data_ptr(),
        recent=address(d_recent),
        W_in=address(d_W),
    )
    keep = 0.0  # factor on the sums of the blocks so far
    for begin in reversed(range(0, T, plan.block)):
        end = min(begin + plan.block, T)
        rows, some = slice(begin * B, end * B), (end - begin) * B
        dz_now, offset = dz[:some], begin * B
        now = to._replace(z=dz.data_ptr() - 4 * offset * width)
        if has_mix:
            dm, dr = dmixed[:some], dreads[:some]
            mix_rows(plan, rows, z[rows], mixed[rows], None, dy.view(T * B, H)[rows], dm, dz_now)
            torch.mm(dm, cast(Tensor, inputs.mix), out=dr)
            cast(Tensor, dmix).addmm_(dm.t(), normed[rows], beta=keep)
            _sum_rows(dm, cast(Tensor, dmix_bias), keep)
            now = now._replace(y=dreads.data_ptr() - 4 * offset * H)

        def task(
            first: int, last: int, which: int, begin: int = begin, end: int = end, now: ProgramGradients = now
        ) -> None:
            compiled.backward(
                problem, now, at, begin, end, first, last, which, scratch.data_ptr() + 4 * at.floats * which
            )

        run(task, B, count, (alive, dy, drecent, dW, scale, G, carry, tail, dz, dreads, dtaps, dnorm, d_recent, d_W))
        dweight.addmm_(dz_now.t(), x[rows], beta=keep)
        _sum_rows(dz_now, dbias, keep)
        if dx is not None:
            torch.mm(dz_now, inputs.weight, out=dx.view(T * B, -1)[rows])
        keep = 1.0
    dtaps, dnorm = (s[0] if count == 1 else s.sum(0) for s in (dtaps, dnorm))
    dgain, dshift = dnorm.unbind() if has_mix else (None, None)
    at_t = _gradient_at_t(dt, inputs.start)
    return [dx, dweight, dbias, dtaps, d_recent, d_W, at_t, None, dgain, dshift, dmix, dmix_bias]


def _sum_rows(x: Tensor, out: Tensor, keep: float) -> None:
    """Compute ``out = keep out + x.sum(0)``, for ``keep`` 0 or 1."""
    if keep:
        out += x.sum(0)
    else:
        torch.sum(x, 0, out=out)


def _gradient_at_t(dt: Tensor | None, start: Tensor | None) -> Tensor | None:
    """Return the gradient at the initial t: ``dt``, and zero for rows in which an episode begins."""
    if dt is None or start is None:
        return dt
    return dt.masked_fill(start.any(0).unsqueeze(1), 0.0)


# ``covers`` must hold for its inputs. The rotations have no gradient at the count t, so the gradient at the first t is
# the gradient at the last t.
scan = CompiledScan(
    "program_scan",
    ProgramInputs,
    ProgramOptions,
    ProgramResult,
    forward=forward_pass,
    backward=backward_pass,
    sizes=sizes,
    reference=loop_form,
    kept=["y", "W"],
)
