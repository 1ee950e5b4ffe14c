"""A gate between the memory's read and a skip connection."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-2  # of the layer norm; large, because the nearly zero reads of an empty memory must not be amplified


class OutputGate(nn.Module):
    r"""Mix the read of a memory with a linear function of the input, unit by unit.

    ::

        g(t) = sigmoid(G x(t) + c)
        y(t) = g(t) * (M LN[r(t)] + m) + (1 - g(t)) * (U x(t) + u)

    With an empty memory, the gate can pass the input through. The form is from Fast and Forgetful Memory (Morad et
    al., 2023, arXiv:2310.04128).

    Args:
        input_size: D.
        hidden_size: H.

    Shapes:
        ``gate [H, D]`` (G), ``skip [H, D]`` (U) and ``mix [H, H]`` (M) with their biases, torch's initialisation;
        ``norm``, gain and bias of the layer norm [H].
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=EPSILON)
        self.mix = nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Linear(input_size, hidden_size)
        self.skip = nn.Linear(input_size, hidden_size)

    def forward(self, read: Tensor, x: Tensor) -> Tensor:
        """Reads [..., H] and inputs [..., D] -> outputs [..., H]."""
        weight = torch.cat([self.gate.weight, self.skip.weight])
        gate, skip = F.linear(x, weight, torch.cat([self.gate.bias, self.skip.bias])).chunk(2, -1)
        y: Tensor = skip.lerp(self.mix(self.norm(read)), gate.sigmoid())
        return y
