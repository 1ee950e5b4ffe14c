"""GRU: the gated recurrent unit, as torch has it."""

import torch
from torch import Tensor, nn

from fwagents.cores.base import HiddenState, MemoryCore, finite_float


class GRU(MemoryCore[HiddenState]):
    """Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014), in ``torch.nn.GRU``'s form.

    ::

        r = sigmoid(C_r x + W_r h + b_r)      z = sigmoid(C_z x + W_z h + b_z)
        n = tanh(C_n x + b_n + r * (W_n h + c_n))
        h = (1 - z) * n + z * h

    Args:
        input_size: D.
        hidden_size: H.
        update_bias: added to the initial b_z. A positive value makes an untrained GRU keep its state, as
            ``forget_bias`` does for an LSTM.

    Shapes:
        state ``(h [B, H],)``; parameters and initialisation as in ``torch.nn.GRU``, except b_z.

    Raises:
        ValueError: update_bias is not finite.
    """

    state_type = HiddenState

    def __init__(self, input_size: int, hidden_size: int, *, update_bias: float = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        self.rnn = nn.GRU(self.input_size, self.hidden_size)
        with torch.no_grad():  # the second of torch's three gates
            bias_ih = self.rnn.all_weights[0][2]
            bias_ih[hidden_size : 2 * hidden_size] += finite_float("update_bias", update_bias)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of h for one row."""
        return ((self.hidden_size,),)

    def stretch(self, x: Tensor, state: HiddenState) -> tuple[Tensor, HiddenState]:
        """Run a stretch without resets in torch's own loop; see ``MemoryCore.stretch``."""
        y, h = self.rnn(x, state.h.unsqueeze(0).contiguous())
        return y, HiddenState(h.squeeze(0))
