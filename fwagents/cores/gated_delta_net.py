"""Gated DeltaNet: DeltaNet that can also forget everything at once."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.cores.base import finite_float, positive_int
from fwagents.cores.delta_net import DeltaNet
from fwagents.cores.programmer import Program


class GatedDeltaNet(DeltaNet):
    r"""Yang, Kautz and Hatamizadeh, "Gated Delta Networks" (2024), arXiv:2412.06464.

    ``DeltaNet`` with a forget gate, one number per head::

        alpha(t) = sigmoid(c . x(t) + b)
        W(t)     = alpha(t) W(t-1) + beta(t) (v(t) - alpha(t) W(t-1) k(t)) k(t)^T

    The delta rule changes the value of one key, the gate scales all values down. The original parametrises alpha as
    the decay of a state-space model; here it is a plain sigmoid with a high initial bias, so that the memory outlasts
    the first steps of training.

    Args:
        input_size: D.
        hidden_size: H, a multiple of num_heads.
        num_heads: fast nets side by side.
        conv_size: steps that the convolution before q, k and v reaches over.
        gate_bias: initial bias of alpha, one number for all heads or one for each; at 4 the memory halves in
            38 steps.
        output_gate: put an ``OutputGate`` behind the read.

    Shapes:
        as in ``DeltaNet``; in the projection, the rows for alpha follow the rows for beta.
    """

    gates_per_head: ClassVar[int] = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_heads: int = 1,
        conv_size: int = 4,
        gate_bias: float | Sequence[float] = 4.0,
        output_gate: bool = False,
    ) -> None:
        self.gate_bias = one_per_head("gate_bias", gate_bias, positive_int("num_heads", num_heads))
        super().__init__(input_size, hidden_size, num_heads=num_heads, conv_size=conv_size, output_gate=output_gate)

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        super().reset_parameters()
        with torch.no_grad():
            self.projection.bias[-self.num_heads :] = torch.tensor(self.gate_bias)

    def rule(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> Program:
        """Return DeltaNet's program, with the logarithm of the gate as decay."""
        return super().rule(q, k, v, gates)._replace(log_decay=F.logsigmoid(gates[:, :, 1]))

    def extra_repr(self) -> str:
        """Return the sizes and options, for ``print``."""
        return f"{super().extra_repr()}, gate_bias={self.gate_bias}"


def one_per_head(name: str, value: float | Sequence[float], num_heads: int) -> list[float]:
    """Return one number per head; raise ValueError unless ``value`` is a number or one number per head."""
    numbers = list(value) if isinstance(value, (list, tuple)) else [value] * num_heads
    if len(numbers) != num_heads:
        raise ValueError(f"{name} is {value!r}, expected one number, or one for each of {num_heads} heads")
    return [finite_float(name, number) for number in numbers]
