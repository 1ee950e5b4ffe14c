"""The associative LSTM's step in real numbers, for formats without complex numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.cores import AssociativeLSTM, AssociativeLSTMState

Pair = tuple[Tensor, Tensor]  # real and imaginary parts


def real_cell(core: AssociativeLSTM, x: Tensor, state: AssociativeLSTMState) -> tuple[Tensor, AssociativeLSTMState]:
    """Compute ``core.cell(x, state)``: ``x [B, D]`` -> ``(y [B, H], state)``; symbols as in the core's docstring."""
    n, heads, copies = core.hidden_size // 2, core.num_heads, core.num_copies
    summed = F.linear(x, core.weight_ih, core.bias) + F.linear(state.h, core.weight_hh)
    gates, vectors = torch.split(summed, [(1 + 2 * heads) * n, 6 * heads * n], dim=1)
    f, i, o = torch.split(gates.sigmoid(), [n, heads * n, heads * n], dim=1)
    i, o = i.reshape(-1, heads, n), o.reshape(-1, heads, n)
    vectors = vectors.reshape(-1, 3 * heads, 2, n)
    real, imaginary = _bound((vectors[:, :, 0], vectors[:, :, 1]))
    parts = [torch.split(part, heads, dim=1) for part in (real, imaginary)]
    write, read, u = zip(*parts, strict=True)

    def permuted(keys: Tensor) -> Tensor:
        return keys.index_select(2, core.permutations.flatten()).reshape(-1, heads, copies, n)

    value = i.unsqueeze(2) * u[0].unsqueeze(2), i.unsqueeze(2) * u[1].unsqueeze(2)
    written = _product((permuted(write[0]), permuted(write[1])), value)
    forget = f.unsqueeze(1)
    c = forget * state.c[..., :n] + written[0].sum(1), forget * state.c[..., n:] + written[1].sum(1)
    found = _product((permuted(read[0]), permuted(read[1])), (c[0].unsqueeze(1), c[1].unsqueeze(1)))
    heard = _bound((found[0].sum(2) / copies, found[1].sum(2) / copies))
    h = torch.cat([(o * heard[0]).sum(1), (o * heard[1]).sum(1)], dim=1)
    return h, AssociativeLSTMState(h, torch.cat(c, dim=-1))


def _product(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _bound(z: Pair) -> Pair:
    """Return ``z / max(1, |z|)``."""
    scale = (z[0] * z[0] + z[1] * z[1]).clamp(min=1.0).rsqrt()
    return z[0] * scale, z[1] * scale
