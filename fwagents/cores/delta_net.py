"""DeltaNet: a fast-weight programmer that corrects what it has stored."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fwagents.cores.programmer import FastWeightProgrammer, Program


class DeltaNet(FastWeightProgrammer):
    r"""Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers" (2021), arXiv:2102.11174.

    With q, k and v as ``FastWeightProgrammer`` projects them::

        q, k, v <- silu(q), silu(k), silu(v)      q, k <- q / |q|, k / |k|
        beta(t) = sigmoid(c . x(t) + b)           one number per head
        W(t)    = W(t-1) + beta(t) (v(t) - W(t-1) k(t)) k(t)^T
        y(t)    = W(t) q(t)

    The rule moves the value stored under k towards v by the fraction beta. At beta = 1 it overwrites that value, and
    values under orthogonal keys do not change. The rule is Widrow and Hoff's (1960). The Euclidean norm, silu, the
    convolution and the parallel computation of many steps are from Yang et al. (2024), arXiv:2406.06484.

    Args:
        input_size: D.
        hidden_size: H, a multiple of num_heads.
        num_heads: fast nets side by side.
        conv_size: steps that the convolution before q, k and v reaches over.
        output_gate: put an ``OutputGate`` behind the read.

    Shapes:
        state ``(recent [B, c-1, 3H], W [B, heads, H/heads, H/heads])``; parameters as in
        ``FastWeightProgrammer``; the last rows of the projection are for beta.
    """

    gates_per_head: ClassVar[int] = 1
    silu: bool = True

    def rule(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> Program:
        """Return the delta rule's program, with normalised keys and queries."""
        if self.silu:
            q, k, v = F.silu(q), F.silu(k), F.silu(v)
        return Program(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, gates[:, :, 0].sigmoid())
