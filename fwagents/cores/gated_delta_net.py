"""Gated DeltaNet: DeltaNet that can also forget everything at once."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.cores.base import finite_float
from fwagents.cores.delta_net import DeltaNet
from fwagents.cores.programmer import Program


class GatedDeltaNet(DeltaNet):
    r"""Yang, Kautz and Hatamizadeh, "Gated Delta Networks" (2024), arXiv:2412.06464.

    :class:`DeltaNet` with a forget gate, one number a head::

        alpha(t) = sigmoid(c . x(t) + b)
        W(t)     = alpha(t) W(t-1) + beta(t) (v(t) - alpha(t) W(t-1) k(t)) k(t)^T

    The delta rule clears one key at a time, the gate all of them. The original's alpha is written as the decay of a
    state-space model; here it is a plain sigmoid, whose bias starts high, so that the memory outlasts the first steps
    of training.

    Args:
        input_size: D.
        hidden_size: H, a multiple of num_heads.
        num_heads: fast nets side by side.
        conv_size: steps that the convolution before q, k and v reaches over.
        gate_bias: what alpha's bias starts from; at 4 an episode's memory halves in about 40 steps.

    Shapes:
        those of ``DeltaNet``, the alphas' rows of the projection standing behind the betas'.
    """

    gates_per_head: ClassVar[int] = 2

    def __init__(
        self, input_size: int, hidden_size: int, *, num_heads: int = 1, conv_size: int = 4, gate_bias: float = 4.0
    ) -> None:
        self.gate_bias = finite_float("gate_bias", gate_bias)
        super().__init__(input_size, hidden_size, num_heads=num_heads, conv_size=conv_size)

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        super().reset_parameters()
        with torch.no_grad():
            self.projection.bias[-self.num_heads :] = self.gate_bias

    def program(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> Program:
        """DeltaNet's, with the gate's logarithm."""
        return super().program(q, k, v, gates)._replace(log_decay=F.logsigmoid(gates[:, :, 1]))

    def extra_repr(self) -> str:
        """The sizes and options, for ``print``."""
        return f"{super().extra_repr()}, gate_bias={self.gate_bias}"
