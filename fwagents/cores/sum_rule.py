"""Sum rule: a fast-weight programmer that only adds, which is linear attention."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.cores.programmer import FastWeightProgrammer, Program

EPSILON = 1e-6  # keeps the divisor above zero


class SumRule(FastWeightProgrammer):
    r"""Schmidhuber, "Learning to Control Fast-Weight Memories" (1992); Katharopoulos et al. (2020), arXiv:2006.16236.

    With q, k and v as ``FastWeightProgrammer`` projects them, and phi = elu + 1::

        W(t) = W(t-1) + v(t) phi(k(t))^T
        z(t) = z(t-1) + phi(k(t))
        y(t) = W(t) phi(q(t)) / z(t) . phi(q(t))

    The outer products are Schmidhuber's; feature map and normaliser are the linear transformer's. With them the read is
    attention without a softmax: ``y(t) = sum_s a_ts v(s) / sum_s a_ts``, ``a_ts = phi(k(s)) . phi(q(t))``. Schlag et
    al. (2021), arXiv:2102.11174, show that the two are equivalent. Nothing is ever forgotten or overwritten.

    Args:
        input_size: D.
        hidden_size: H, a multiple of num_heads.
        num_heads: fast nets side by side.
        conv_size: steps that the convolution before q, k and v reaches over.
        output_gate: put an ``OutputGate`` behind the read.

    Shapes:
        state ``(recent [B, c-1, 3H], W [B, heads, H/heads + 1, H/heads])``, z is the last row of W; parameters as in
        ``FastWeightProgrammer``.
    """

    extra_rows: ClassVar[int] = 1

    def rule(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> Program:
        """Return a program whose values end in a 1, so that the last row of W is z."""
        return Program(F.elu(q) + 1, F.elu(k) + 1, torch.cat([v, torch.ones_like(v[..., :1])], -1))

    def divisor(self, read: Tensor) -> Tensor:
        """Return z . q, kept above zero."""
        return read[..., -1:] + EPSILON
