"""The scan of the associative LSTM on the CPU: a matrix product and a compiled kernel a step, and their derivatives.

The batch is the last dimension, padded with zeros to whole vectors. The inputs ``[h, x, 1]`` of all steps are stored
side by side, so that one product at the end gives the gradients of all weights and of the bias.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fwagents.kernels import operator
from fwagents.kernels.cpu.kernels import associative_kernels
from fwagents.kernels.cpu.memory import borrowed
from fwagents.kernels.cpu.problem import padded
from fwagents.kernels.tensors import float32_on_cpu, plain

Outputs = tuple[Tensor, Tensor, Tensor]


def covers(*tensors: Tensor) -> bool:
    """Return whether the compiled scan can run: plain float32 tensors, on the CPU, in eager reverse mode."""
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return False
    return float32_on_cpu(*tensors) and all(map(plain, tensors))


def scan(form: Callable[..., Outputs], heads: int, permutations: Tensor, *tensors: Tensor) -> Outputs:
    """Run the recurrence over a sequence.

    Args:
        form: the recurrence in plain torch, of ``(heads, permutations, *tensors)``, for derivatives of derivatives.
        heads: K.
        permutations: integers [S, n].
        tensors: x [T, B, D], h [B, 2 n], c [B, S, 2 n], and the weights C, W and b; ``covers`` must hold for them.

    Returns:
        ``(y [T, B, 2 n], h, c)``, differentiable in ``tensors``.
    """
    traced = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return cast(Outputs, cast(Any, _Scan).apply(form, heads, permutations.contiguous(), traced, *tensors))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a b^T``; b may be transposed in memory. oneDNN uses AVX-512 where MKL uses only AVX2."""
    if torch._C._has_mkldnn:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return a @ b.t()


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: Callable[..., Outputs], heads: int, permutations: Tensor, traced: bool, *tensors: Tensor
    ) -> Outputs:
        x, h, c, weight_ih, weight_hh, bias = tensors
        (T, B, D), H, (S, n) = x.shape, h.shape[1], permutations.shape
        kernel, sizes = associative_kernels().forward, (n, heads, S, padded(B), permutations.data_ptr())
        weight = torch.cat((weight_hh, weight_ih, bias.unsqueeze(1)), 1)
        z = borrowed(T + 1, padded(B), H + D + 1).zero_()
        z[:T, :B, H:-1] = x
        z[:T, :B, -1] = 1
        z[0, :B, :H] = h
        kept = T if traced else 1
        cs, traces = borrowed(kept + traced, S * H, padded(B)), borrowed(kept, 6 * heads * n, padded(B))
        cs[0].zero_()[:, :B] = c.reshape(B, -1).t()
        h_out = borrowed(H, padded(B))
        pres = []
        for t in range(T):
            pre = _product(weight, z[t])
            pre[: (1 + 2 * heads) * n].sigmoid_()
            now, then = cs[t % len(cs)], cs[(t + 1) % len(cs)]
            kernel(*sizes, *(a.data_ptr() for a in (pre, now, then, h_out, traces[t % kept])))
            z[t + 1, :, :H] = h_out.t()
            if traced:
                pres.append(pre)
        ctx.save_for_backward(permutations, *tensors, z, cs, traces, *pres)
        ctx.form, ctx.heads = form, heads
        ctx.set_materialize_grads(False)
        y = z[1:, :B, :H].clone(memory_format=torch.contiguous_format)
        return y, y[-1].clone(), cs[-1, :, :B].t().reshape(B, S, H).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        permutations, *tensors, z, cs, traces = ctx.saved_tensors[:10]
        wanted = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():
            outputs = ctx.form(ctx.heads, permutations, *tensors)
            return None, None, None, None, *operator.differentiable(outputs, gradients, tensors, wanted)
        pres = ctx.saved_tensors[10:]
        x, h, _, weight_ih, weight_hh, _ = tensors
        (T, B, _), H, (S, n), Bp = x.shape, h.shape[1], permutations.shape, z.shape[1]
        kernel, sizes = associative_kernels().backward, (n, ctx.heads, S, Bp, permutations.data_ptr())
        dy, dh_out, dc_out = gradients
        back = (torch.cat((weight_hh, weight_ih), 1) if wanted[0] else weight_hh).t().contiguous()
        d = borrowed(T, len(weight_hh), Bp)
        dc = borrowed(S * H, Bp).zero_()
        if dc_out is not None:
            dc[:, :B] = dc_out.reshape(B, -1).t()
        dz, dx = borrowed(len(back), Bp).zero_(), x.new_empty(x.shape) if wanted[0] else None
        if dh_out is not None:
            dz[:H, :B] = dh_out.t()
        for t in reversed(range(T)):
            if dy is not None:
                dz[:H, :B] += dy[t].t()
            kernel(*sizes, *(a.data_ptr() for a in (pres[t], cs[t], cs[t + 1], traces[t], dz, dc, d[t])))
            dz = _product(back, d[t].t())
            if dx is not None:
                dx[t] = dz[H:, :B].t()
        dweight = _product(d.transpose(0, 1).reshape(len(weight_hh), -1), z[:T].flatten(0, 1).t())
        dhh, dih, dbias = dweight[:, :H].contiguous(), dweight[:, H:-1].contiguous(), dweight[:, -1].contiguous()
        return None, None, None, None, dx, dz[:H, :B].t(), dc[:, :B].t().reshape(B, S, H), dih, dhh, dbias
