"""Differentiable plasticity: a recurrent net whose every connection has a Hebbian trace."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwagents.cores.base import MemoryCore, finite_float


class HebbianState(NamedTuple):
    """Hidden state ``h [B, H]`` and traces ``hebb [B, H, H]``: entry i, j is of the connection from unit j to i."""

    h: Tensor
    hebb: Tensor


class Hebbian(MemoryCore[HebbianState]):
    r"""Miconi, Clune and Stanley, "Differentiable plasticity" (2018), arXiv:1804.02464.

    Every connection has a fixed part W and a plastic part, its trace times a learned plasticity alpha::

        h(t+1)    = tanh((W + alpha * hebb(t)) h(t) + C x(t) + b)
        hebb(t+1) = (1 - eta) hebb(t) + eta h(t+1) h(t)^T

    A trace is a running mean of the product of the activities of its two units. Its rate eta is one learned number,
    unconstrained as in the original. The plasticity of each connection is learned too.

    Args:
        input_size: D.
        hidden_size: H.
        eta: initial eta, in [0, 1]; the original's is 0.01.

    Shapes:
        ``weight_ih [H, D]`` (C) and ``weight_hh [H, H]`` (W), uniform in +-1/sqrt(H); ``alpha [H, H]``, uniform in
        +-0.01; ``bias [H]``, zero; ``eta []``; state ``(h [B, H], hebb [B, H, H])``.
    """

    state_type = HebbianState

    def __init__(self, input_size: int, hidden_size: int, *, eta: float = 0.01) -> None:
        super().__init__(input_size, hidden_size)
        self.initial_eta = finite_float("eta", eta, 0.0, 1.0)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.alpha = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.eta = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        bound = self.hidden_size**-0.5
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.uniform_(self.weight_hh, -bound, bound)
        nn.init.uniform_(self.alpha, -0.01, 0.01)
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.eta, self.initial_eta)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of h and hebb for one row."""
        return (self.hidden_size,), (self.hidden_size, self.hidden_size)

    def stretch(self, x: Tensor, state: HebbianState) -> tuple[Tensor, HebbianState]:
        """Run a stretch without resets; see ``MemoryCore.stretch``."""
        h, hebb = state
        ys = []
        for drive in F.linear(x, self.weight_ih, self.bias).unbind():
            plastic = torch.bmm(self.alpha * hebb, h.unsqueeze(-1)).squeeze(-1)
            new = torch.tanh(torch.addmm(drive, h, self.weight_hh.t()) + plastic)
            # Under autocast h is less precise than the traces, and lerp needs a single dtype.
            hebb = torch.lerp(hebb, (new.unsqueeze(-1) * h.unsqueeze(-2)).to(hebb.dtype), self.eta)
            h = new
            ys.append(h)
        return torch.stack(ys), HebbianState(h, hebb)

    def extra_repr(self) -> str:
        """Return the sizes, for ``print``."""
        return f"{self.input_size}, {self.hidden_size}, eta={self.initial_eta}"
