"""Fast and Forgetful Memory: sums of the past that decay and oscillate, each at its own rate."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwagents.cores.base import MemoryCore, finite_float, positive_int

FORGOTTEN = 0.01  # share of its first size at which a trace counts as forgotten
FASTEST = 2 / 3  # largest initial decay rate: such a trace is forgotten after 7 steps


class FFMState(NamedTuple):
    """The memory ``S [B, m, c, 2]``, real and imaginary parts."""

    S: Tensor


class FFM(MemoryCore[FFMState]):
    r"""Morad et al., "Reinforcement Learning with Fast and Forgetful Memory" (2023), arXiv:2310.04128.

    There are m traces that decay at rates alpha, each in c contexts that oscillate at frequencies omega. S is complex,
    m x c::

        u(t) = (C_1 x + b_1) * sigmoid(C_2 x + b_2)                          in R^m
        S(t) = gamma * S(t-1) + u(t) 1^T      gamma_jk = exp(-|alpha_j| - i omega_k)
        z(t) = C_3 [Re S(t), Im S(t)] + b_3
        y(t) = LN[z] * sigmoid(C_4 x + b_4) + (C_5 x + b_5) * (1 - sigmoid(C_4 x + b_4))

    S(t) is a sum over the past, ``sum_s gamma^(t-s) u(s)``: every input decays exponentially, and the contexts' phases
    encode its age. No gate depends on S, so the loop over time is one product and one sum per step; everything else is
    computed for the whole sequence at once. LN has neither gain nor bias.

    Args:
        input_size: D.
        hidden_size: H.
        memory_size: m.
        context_size: c.
        max_period: initial period of the slowest context, in steps; over one such period the slowest trace decays to a
            hundredth. At least 7.

    Shapes:
        ``gates [2m + 2H, D]``, rows of C_1, C_2, C_4, C_5, and ``mix [H, 2mc]`` (C_3), with torch's initialisation;
        ``alpha [m]``, evenly spaced from ln 100 / max_period to 2/3, and ``omega [c]``, 2 pi over periods evenly spaced
        from 1 to max_period, as in the authors' code; state ``(S [B, m, c, 2],)``.
    """

    state_type = FFMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        memory_size: int = 32,
        context_size: int = 4,
        max_period: float = 1024.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        input_size, hidden_size = self.input_size, self.hidden_size
        self.memory_size = memory_size = positive_int("memory_size", memory_size)
        self.context_size = context_size = positive_int("context_size", context_size)
        self.max_period = finite_float("max_period", max_period, 7.0)
        self.gates = nn.Linear(input_size, 2 * memory_size + 2 * hidden_size)
        self.mix = nn.Linear(2 * memory_size * context_size, hidden_size)
        self.alpha = nn.Parameter(torch.empty(memory_size))
        self.omega = nn.Parameter(torch.empty(context_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights; alpha and omega are spaced evenly instead."""
        self.gates.reset_parameters()
        self.mix.reset_parameters()
        with torch.no_grad():
            slowest = -math.log(FORGOTTEN) / self.max_period
            self.alpha.copy_(torch.linspace(slowest, FASTEST, self.memory_size))
            self.omega.copy_(2 * math.pi / torch.linspace(1.0, self.max_period, self.context_size))

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of S for one row."""
        return ((self.memory_size, self.context_size, 2),)

    def stretch(self, x: Tensor, state: FFMState) -> tuple[Tensor, FFMState]:
        """Run a stretch without resets; see ``MemoryCore.stretch``."""
        m, H = self.memory_size, self.hidden_size
        value, value_gate, gate, through = self.gates(x).split([m, m, H, H], -1)
        u = F.pad((value * value_gate.sigmoid())[..., None, None], (0, 1))  # [T, B, m, 1, 2], real
        # The product with gamma in real arithmetic, which more exporters and transforms support.
        decay = (-self.alpha.abs()).exp().unsqueeze(1)
        straight = (decay * self.omega.cos()).unsqueeze(-1)
        crossed = (decay * self.omega.sin()).unsqueeze(-1) * x.new_tensor([1.0, -1.0])
        S, sums = state.S, []
        for u_t in u.unbind():
            S = torch.addcmul(torch.addcmul(u_t, S, straight), S.flip(-1), crossed)
            sums.append(S)
        all_sums = torch.stack(sums)
        z = F.layer_norm(self.mix(all_sums.flatten(2)), (H,))
        return torch.lerp(through, z, gate.sigmoid()), FFMState(all_sums[-1])

    def extra_repr(self) -> str:
        """Return the sizes, for ``print``."""
        return (
            f"{self.input_size}, {self.hidden_size}, memory_size={self.memory_size}, "
            f"context_size={self.context_size}, max_period={self.max_period}"
        )
