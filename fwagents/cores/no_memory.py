"""No memory: a feed-forward layer of the same width, for comparison."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwagents.cores.base import HiddenState, MemoryCore


class NoMemory(MemoryCore[HiddenState]):
    """A layer without memory, as a baseline for the other cores: ``y(t) = relu(C x(t) + b)``.

    Args:
        input_size: D.
        hidden_size: H.

    Shapes:
        ``weight_ih [H, D]`` (C), uniform in +-1/sqrt(H), ``bias [H]``, zero at the start; state ``(h [B, H],)``, the
        last output, which nothing reads.
    """

    state_type = HiddenState

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        bound = self.hidden_size**-0.5
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.zeros_(self.bias)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of h for one row."""
        return ((self.hidden_size,),)

    def scan(self, x: Tensor, state: HiddenState, start: Tensor | None) -> tuple[Tensor, HiddenState]:
        """Run all steps at once; a start has no effect, since no state is read. See ``MemoryCore.scan``."""
        y = torch.relu(F.linear(x, self.weight_ih, self.bias))
        return y, HiddenState(y[-1])
