"""Associative LSTM: an LSTM whose memory cell is a holographic store of key-value pairs."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwagents.cores.base import MemoryCore, finite_float, integer, positive_int
from fwagents.kernels import chosen_backend
from fwagents.kernels.associative import scan as associative


class AssociativeLSTMState(NamedTuple):
    """Output ``h [B, H]`` and memory copies ``c [B, S, H]``; H is H/2 real parts, then H/2 imaginary parts."""

    h: Tensor
    c: Tensor


class AssociativeLSTM(MemoryCore[AssociativeLSTMState]):
    r"""Danihelka et al., "Associative Long Short-Term Memory" (2016), arXiv:1602.03032, with several heads.

    The H real units form n = H/2 complex units, and all products are elementwise. With S copies of the memory, fixed
    permutations P_s of the units, and heads k = 1 .. K::

        f, i_k, o_k   = sigmoid(C x + W h + b)    in R^n
        w_k, r_k, u_k = bound(C x + W h + b)      in C^n    key to write, key to read, value
        c_s = f c_s + sum_k (P_s w_k) (i_k u_k)             s = 1 .. S
        h   = sum_k o_k bound(1/S sum_s (P_s r_k) c_s)
        bound(z) = z / max(1, |z|)

    A value written under w is read back exactly with r = conj(w) where |w| = 1; all other values are read with wrong
    phases, as noise. That noise differs from copy to copy, so averaging over S copies divides its variance by S.

    The original has one head. Ba et al. (2016) compare with 4 copies and 3 heads, and do not say how heads combine.
    Here each head has its own keys, value and gates, and all heads share the memory: their writes are summed, and so
    are their reads, so there are H outputs for every K.

    Args:
        input_size: D.
        hidden_size: H, an even number.
        num_copies: redundant copies of the memory (S).
        num_heads: keys written and read per step (K).
        forget_bias: initial bias of f; 1 lets the memory outlast the first steps of training.
        permutation_seed: seed of the P_s, which are buffers and so part of the state dict.

    Shapes:
        ``weight_ih [R, D]`` (C), ``weight_hh [R, H]`` (W), ``bias [R]``, uniform in +-1/sqrt(H) except f's bias, with
        R = (1 + 8 K) n rows in the order f, i, o, w, r, u. Each of i to u is ordered by head, and each head of w, r, u
        has n real parts, then n imaginary parts. ``permutations [S, n]``: ``(P_s z)[j] = z[permutations[s, j]]``. State
        ``(h [B, H], c [B, S, H])``.

    Raises:
        ValueError: hidden_size is odd, or an option is out of range.
    """

    state_type = AssociativeLSTMState
    permutations: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_copies: int = 4,
        num_heads: int = 3,
        forget_bias: float = 1.0,
        permutation_seed: int = 0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        input_size, hidden_size = self.input_size, self.hidden_size
        if hidden_size % 2:
            raise ValueError(f"hidden_size is {hidden_size}, expected an even number: half of it is imaginary parts")
        self.num_copies = num_copies = positive_int("num_copies", num_copies)
        self.num_heads = num_heads = positive_int("num_heads", num_heads)
        self.forget_bias = finite_float("forget_bias", forget_bias)
        self.permutation_seed = permutation_seed = integer("permutation_seed", permutation_seed)
        units = hidden_size // 2
        rows = (1 + 8 * num_heads) * units
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.empty(rows))
        permutations = torch.empty(num_copies, units, dtype=torch.int64)
        if not permutations.is_meta:  # a meta tensor has no data
            generator = torch.Generator().manual_seed(permutation_seed)
            drawn = [torch.randperm(units, generator=generator, device="cpu") for _ in range(num_copies)]
            permutations.copy_(torch.stack(drawn))
        self.register_buffer("permutations", permutations)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights; the permutations stay."""
        limit = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -limit, limit)
        with torch.no_grad():
            self.bias[: self.hidden_size // 2] = self.forget_bias

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of h and c for one row."""
        return (self.hidden_size,), (self.num_copies, self.hidden_size)

    def stretch(self, x: Tensor, state: AssociativeLSTMState) -> tuple[Tensor, AssociativeLSTMState]:
        """Run a stretch without resets, compiled where that is possible; see ``MemoryCore.stretch``."""
        tensors = (x, *state, self.weight_ih, self.weight_hh, self.bias)
        if chosen_backend("auto") == "numba" and associative.covers(*tensors):
            y, h, c = associative.scan(torch_form, self.num_heads, self.permutations, *tensors)
        else:
            y, h, c = torch_form(self.num_heads, self.permutations, *tensors)
        return y, AssociativeLSTMState(h, c)

    def extra_repr(self) -> str:
        """Return the sizes and options, for ``print``."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_copies={self.num_copies}, num_heads={self.num_heads}, "
            f"forget_bias={self.forget_bias}, permutation_seed={self.permutation_seed}"
        )


def torch_form(
    heads: int,
    permutations: Tensor,
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence in plain torch: ``x [T, B, D]`` and the state -> y, h, c, shaped as in ``AssociativeLSTM``.

    Inside, the batch is the last axis, so that a gate or a key of the whole batch is one block of memory.
    """
    inputs = torch.addmm(bias.unsqueeze(1), weight_ih, x.flatten(0, 1).t())
    h, c = h.t(), _complex(c.permute(1, 2, 0).contiguous())
    ys = []
    for summed in inputs.view(-1, *x.shape[:2]).unbind(1):
        h, c = _update(heads, permutations, torch.addmm(summed, weight_hh, h), c)
        ys.append(h.t())
    return torch.stack(ys), h.t(), _real(c).permute(2, 0, 1)


def _update(heads: int, permutations: Tensor, summed: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Apply gates, keys and values, given as sums ``[R, B]``, to c ``[S, n, B]``; return h ``[H, B]`` and the new c."""
    copies, n = permutations.shape
    gates, vectors = torch.split(summed, [(1 + 2 * heads) * n, 6 * heads * n])
    f, i, o = torch.split(gates.sigmoid(), [n, heads * n, heads * n])
    write, read, u = bound(_complex(vectors.view(3 * heads, 2 * n, -1))).chunk(3)
    order = permutations.flatten()
    write = write.index_select(1, order).view(heads, copies, n, -1)
    read = read.index_select(1, order).view(heads, copies, n, -1)
    c = f * c + (write * (i.view(heads, n, -1) * u).unsqueeze(1)).sum(0)
    h = (o.view(heads, n, -1) * bound((read * c).sum(1) / copies)).sum(0)
    return _real(h), c


def bound(z: Tensor) -> Tensor:
    """``z / max(1, |z|)`` for a complex tensor: a modulus up to 1 stays, a larger one becomes 1, the phase is kept."""
    # Computed from |z|^2, because |z| has no derivative at 0.
    return z * F.threshold(z.real * z.real + z.imag * z.imag, 1.0, 1.0).rsqrt()


def _complex(pair: Tensor) -> Tensor:
    """``[..., 2 n, B]``, real parts first -> complex ``[..., n, B]``."""
    # Autocast gives bfloat16, for which torch has no complex dtype.
    return torch.complex(*pair.to(torch.promote_types(pair.dtype, torch.float32)).chunk(2, dim=-2))


def _real(z: Tensor) -> Tensor:
    """Invert ``_complex``."""
    return torch.cat((z.real, z.imag), dim=-2)
