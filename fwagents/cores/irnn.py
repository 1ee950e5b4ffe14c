"""IRNN: a plain ReLU recurrent net that starts as the identity."""

import torch
from torch import Tensor, nn

from fwagents.cores.base import HiddenState, MemoryCore, finite_float


class IRNN(MemoryCore[HiddenState]):
    """Le, Jaitly and Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units" (2015).

    ::

        h(t+1) = relu(W h(t) + C x(t) + b),   W = identity_scale I at the start

    Args:
        input_size: D.
        hidden_size: H.
        identity_scale: W at initialisation, as a multiple of the identity; Ba et al. (2016) use 0.5.

    Shapes:
        state ``(h [B, H],)``; parameters as in ``torch.nn.RNN``, with the second bias fixed at zero.
    """

    state_type = HiddenState

    def __init__(self, input_size: int, hidden_size: int, *, identity_scale: float = 0.5) -> None:
        super().__init__(input_size, hidden_size)
        self.identity_scale = finite_float("identity_scale", identity_scale)
        self.rnn = nn.RNN(self.input_size, self.hidden_size, nonlinearity="relu")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights: W the scaled identity, C uniform in +-1/sqrt(H), b zero."""
        bound = self.hidden_size**-0.5
        weight_ih, weight_hh, bias_ih, bias_hh = self.rnn.all_weights[0]
        nn.init.uniform_(weight_ih, -bound, bound)
        with torch.no_grad():
            weight_hh.copy_(self.identity_scale * torch.eye(self.hidden_size))
        nn.init.zeros_(bias_ih)
        nn.init.zeros_(bias_hh).requires_grad_(False)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of h for one row."""
        return ((self.hidden_size,),)

    def stretch(self, x: Tensor, state: HiddenState) -> tuple[Tensor, HiddenState]:
        """Run a stretch without resets in torch's own loop; see ``MemoryCore.stretch``."""
        y, h = self.rnn(x, state.h.unsqueeze(0).contiguous())
        return y, HiddenState(h.squeeze(0))
