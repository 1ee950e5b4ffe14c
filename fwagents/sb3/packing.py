"""Pack any core's state into two tensors of equal shape, the form of sb3-contrib's LSTM state."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwagents.cores import MemoryCore

Pair = tuple[Tensor, Tensor]


class PackedCore(nn.Module):
    """A memory core with the interface of the ``nn.LSTM`` that ``RecurrentPPO`` expects.

    The leaves of the state are flattened and concatenated. The first half takes the place of the LSTM's hidden state,
    the second half the place of its cell state, so nothing is stored twice. ``hidden_size`` is therefore half the size
    of the state (rounded up). RecurrentPPO reads it only to size its buffers.

    Args:
        core: the core to run.
    """

    num_layers = 1

    def __init__(self, core: MemoryCore[Any]) -> None:
        super().__init__()
        self.core = core
        self.input_size = core.input_size
        self.hidden_size = (core.state_size + 1) // 2

    def pack(self, state: tuple[Tensor, ...]) -> Pair:
        """State with leaves [B, ...] -> two tensors [1, B, hidden_size]."""
        flat = torch.cat([leaf.flatten(1) for leaf in state], dim=1)
        flat = F.pad(flat, (0, 2 * self.hidden_size - flat.shape[1]))
        first, second = torch.split(flat.unsqueeze(0), self.hidden_size, dim=2)
        return first, second

    def unpack(self, pair: Pair) -> Any:
        """Two tensors [1, B, hidden_size] -> the core's State, leaves [B, ...]."""
        flat = torch.cat(pair, dim=2).squeeze(0)[:, : self.core.state_size]
        shapes = self.core.state_shapes
        leaves = torch.split(flat, [math.prod(shape) for shape in shapes], dim=1)
        return self.core.state_type(
            *(leaf.reshape(len(flat), *shape) for leaf, shape in zip(leaves, shapes, strict=True))
        )

    def forward(self, features: Tensor, pair: Pair, episode_starts: Tensor) -> tuple[Tensor, Pair]:
        """Run over sequences as ``RecurrentPPO`` lays them out.

        Args:
            features: [n_seq * T, D], one sequence after the other.
            pair: state before the first step of each sequence, two tensors [1, n_seq, hidden_size].
            episode_starts: [n_seq * T], non-zero where a step opens an episode.

        Returns:
            Outputs [n_seq * T, H] and the state after the last step, packed.
        """
        n_seq = pair[0].shape[1]
        x = features.reshape(n_seq, -1, self.input_size).transpose(0, 1)
        start = (episode_starts > 0.5).reshape(n_seq, -1).transpose(0, 1)
        y, state = self.core(x, self.unpack(pair), start)
        return y.transpose(0, 1).flatten(0, 1), self.pack(state)
