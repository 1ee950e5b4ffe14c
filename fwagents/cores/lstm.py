"""LSTM: long short-term memory, as torch has it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fwagents.cores.base import MemoryCore, finite_float


class LSTMState(NamedTuple):
    """Hidden state ``h [B, H]`` and cell state ``c [B, H]``."""

    h: Tensor
    c: Tensor


class LSTM(MemoryCore[LSTMState]):
    """Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000), in ``torch.nn.LSTM``'s form.

    ::

        i, f, o = sigmoid(C x + W h + b) each      g = tanh(C_g x + W_g h + b_g)
        c = f * c + i * g                          h = o * tanh(c)

    Args:
        input_size: D.
        hidden_size: H.
        forget_bias: added to the initial bias of the forget gate. A positive value makes an untrained LSTM keep its
            cell; Jozefowicz et al. (2015), "An Empirical Exploration of Recurrent Network Architectures", advise 1.

    Shapes:
        state ``(h [B, H], c [B, H])``; parameters and initialisation as in ``torch.nn.LSTM``, except that bias.

    Raises:
        ValueError: forget_bias is not finite.
    """

    state_type = LSTMState

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        self.rnn = nn.LSTM(self.input_size, self.hidden_size)
        with torch.no_grad():  # the second of torch's four gates
            bias_ih = self.rnn.all_weights[0][2]
            bias_ih[hidden_size : 2 * hidden_size] += finite_float("forget_bias", forget_bias)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of h and c for one row."""
        return (self.hidden_size,), (self.hidden_size,)

    def stretch(self, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Run a stretch without resets in torch's own loop; see ``MemoryCore.stretch``."""
        y, (h, c) = self.rnn(x, (state.h.unsqueeze(0).contiguous(), state.c.unsqueeze(0).contiguous()))
        return y, LSTMState(h.squeeze(0), c.squeeze(0))
