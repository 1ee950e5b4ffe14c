"""Rotary fast weights: a gated delta rule whose keys encode both content and time."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from fwagents.cores.base import boolean, finite_float, positive_int
from fwagents.cores.gated_delta_net import GatedDeltaNet
from fwagents.cores.programmer import Program
from fwagents.kernels.program_reference import ProgramOptions

Turned = Literal["half", "all", "none"]
# For each name: the first head that is turned, and the distance to the next; 0 for none.
TURNED: dict[Turned, tuple[int, int]] = {"half": (1, 2), "all": (0, 1), "none": (0, 0)}

# Scale of the initial projections to q and k. Both are normalised, so an optimizer step rotates them more the shorter
# they are before normalisation. With torch's own scale, the return on a control task fell at every other update.
KEY_SCALE = 4.0

# Scales of the induction head's initial taps and values. Small taps suppress all steps but one. The head's queries
# match its keys, while queries and keys of the other heads are nearly orthogonal, so with values of equal size its read
# would dominate theirs after the layer norm.
TAP_SCALE = 0.2
VALUE_SCALE = 0.1


class RotaryState(NamedTuple):
    """Latest projections for the convolution ``recent [B, c-1, 3H]``, fast weights ``W [B, heads, d, d]``, and the
    number of steps of the episode so far ``t [B, 1]``."""

    recent: Tensor
    W: Tensor
    t: Tensor


class RotaryFastWeights(GatedDeltaNet):
    r"""A fast-weight memory with separate keys and values, gates, and a time code in its keys and queries.

    With H units in h heads of d = H/h numbers, and t counted from the start of the episode::

        p(t)     = C x(t) + b                        3H rows for q, k and v, h for beta, h for alpha
        q, k, v  = sum_{j<c} w_j * p(t-j)            a short causal depthwise convolution
        q, k     = Rot(t) q/|q|, Rot(t) k/|k|        in the heads that are turned; q/|q| and k/|k| in the others
        alpha(t) = sigmoid(.), beta(t) = sigmoid(.)  one number per head
        W(t)     = alpha W(t-1) + beta (v - alpha W(t-1) k) k^T
        r(t)     = W(t) q(t)                         concatenated over the heads
        y(t)     = g(t) * (M LN[r(t)] + m) + (1 - g(t)) * (U x(t) + u)      g(t) = sigmoid(G x(t) + c)

    It is ``GatedDeltaNet`` (Yang et al., 2024, arXiv:2412.06464) without silu, with rotary position codes (Su et al.,
    2021, arXiv:2104.09864) and with the output gate of Fast and Forgetful Memory (Morad et al., 2023,
    arXiv:2310.04128). Rot(t) turns the coordinates 2j and 2j + 1 by the angle t 2 pi / period_j.
    A product of a turned query and a turned key depends on the number of steps between them, so a turned head can
    address "n steps ago", and any other head "after the letter c".

    The periods run from ``min_period`` to ``max_period`` in equal steps of their logarithm and are not learned. The
    state counts t in float32 or better, which is exact for 16 million steps. The share of a turn, t / period_j modulo
    1, is computed in float64, so the code is as sharp at the end of a long episode as at its beginning.

    With ``induction`` the last head that is not turned begins as an induction head (Olsson et al., 2022,
    arXiv:2209.11895): q and k are the same projection, q of this step and k of the step before (without a convolution,
    both of this step). So before any training the head reads what followed the last time that the present input was
    seen. Without it, an agent gains no reward until it finds by chance that the answer is stored under the same key.
    One head is enough, and where inputs repeat it keeps only what followed last; so the other heads begin at random.

    Args:
        input_size: D.
        hidden_size: H, a multiple of num_heads. Where d is odd, the last coordinate of a head is not turned.
        num_heads: fast nets side by side (h).
        conv_size: steps that the convolution before q, k and v reaches over.
        rotary: which heads are turned: "half" turns the second, the fourth and so on.
        min_period: steps of the fastest turn.
        max_period: steps of the slowest turn.
        gate_bias: initial bias of alpha, one number for all heads or one for each; None spreads 2 to 8 evenly
            over the heads, so that with four heads their memories halve in 5, 38, 280 and 2,000 steps.
        output_gate: put the output gate behind the read; without it y(t) = r(t).
        silu: put silu behind the convolution, as in ``GatedDeltaNet``.
        delta_rule: replace the value stored under a key; False adds beta v k^T instead, and runs in plain torch.
        induction: begin the last head that is not turned as an induction head.

    Shapes:
        state ``(recent [B, c-1, 3H], W [B, heads, d, d], t [B, 1])``; the parameters have the shapes and the
        initialisation of ``GatedDeltaNet`` and ``OutputGate``, but the rows of C and b for q and k begin four times as
        large. In the induction head the rows for q begin as the rows for k, the rows for v a tenth as large as in the
        other heads, and the taps a fifth as large, plus 1 at the present step for q and at the step before for k.

    Raises:
        ValueError: an option is not as above.
    """

    state_type = RotaryState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_heads: int = 4,
        conv_size: int = 4,
        rotary: Turned = "half",
        min_period: float = 2.5,
        max_period: float = 200.0,
        gate_bias: float | Sequence[float] | None = None,
        output_gate: bool = True,
        silu: bool = False,
        delta_rule: bool = True,
        induction: bool = True,
    ) -> None:
        positive_int("num_heads", num_heads)
        if gate_bias is None:
            gate_bias = np.linspace(2, 8, num_heads).tolist() if num_heads > 1 else 5.0
        if rotary not in get_args(Turned):
            raise ValueError(f"rotary is {rotary!r}, expected one of {', '.join(get_args(Turned))}")
        self.rotary = rotary
        self.min_period = finite_float("min_period", min_period, 2.0)
        self.max_period = finite_float("max_period", max_period, self.min_period)
        self.silu = boolean("silu", silu)
        self.delta_rule = boolean("delta_rule", delta_rule)
        self.induction = boolean("induction", induction)
        super().__init__(
            input_size,
            hidden_size,
            num_heads=num_heads,
            conv_size=conv_size,
            gate_bias=gate_bias,
            output_gate=output_gate,
        )
        periods = np.geomspace(self.min_period, self.max_period, self.hidden_size // self.num_heads // 2)
        self.periods: list[float] = periods.tolist()
        turned = np.array([[self.is_turned(head)] for head in range(self.num_heads)])
        self.turns: list[list[float]] = (turned / periods).tolist()  # a step [heads, d/2]

    def is_turned(self, head: int) -> bool:
        """Return whether the queries and keys of a head, counted from 0, have the time code."""
        first, every = TURNED[self.rotary]
        return every > 0 and head >= first and (head - first) % every == 0

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        super().reset_parameters()
        with torch.no_grad():
            for parameter in (self.projection.weight, self.projection.bias):
                parameter[: 2 * self.hidden_size] *= KEY_SCALE
            unturned = [head for head in range(self.num_heads) if not self.is_turned(head)]
            if self.induction and unturned:
                self._begin_as_induction(unturned[-1])

    def _begin_as_induction(self, head: int) -> None:
        """Make the head's query equal to its key of one step later, or of the same step without a convolution."""
        H, d = self.hidden_size, self.hidden_size // self.num_heads
        q, k, v = (slice(n * H + head * d, n * H + (head + 1) * d) for n in range(3))
        for parameter in (self.projection.weight, self.projection.bias):
            parameter[q] = parameter[k]
            parameter[v] *= VALUE_SCALE
        self.taps[:, q] = self.taps[:, k]
        if self.conv_size > 1:
            for rows, step in ((q, -1), (k, -2)):
                self.taps[:, rows] *= TAP_SCALE
                self.taps[step, rows] += 1

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of recent, W and t for one row."""
        return (*super().state_shapes, (1,))

    def rule(self, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> Program:
        """Return the gated delta rule's program; without ``delta_rule``, beta scales the added value."""
        program = super().rule(q, k, v, gates)
        if self.delta_rule or program.rate is None:
            return program
        return program._replace(value=program.rate.unsqueeze(-1) * program.value, rate=None)

    def _compiles(self, *tensors: Tensor | None) -> bool:
        return self.delta_rule and super()._compiles(*tensors)

    def stretch(self, x: Tensor, state: RotaryState) -> tuple[Tensor, RotaryState]:
        """Run steps without a reset in plain torch; see ``MemoryCore.stretch``."""
        program, recent = self.project(x, state)
        y, W = self.run(program, x, state.W)
        return y, RotaryState(recent, W, state.t + x.shape[0])

    def project(self, x: Tensor, state: RotaryState) -> tuple[Program, Tensor]:
        """Project a stretch and turn its queries and keys; see ``FastWeightProgrammer.project``."""
        program, recent = super().project(x, state)
        return self.turned(program, state.t), recent

    def program_options(self) -> ProgramOptions:
        """Return the rule in the form that the compiled scan takes."""
        first, every = TURNED[self.rotary]
        turns = tuple(1 / period for period in self.periods) if every else ()
        return super().program_options()._replace(turns=turns, first=first, every=every)

    def turned(self, program: Program, t: Tensor) -> Program:
        """Return the program with turned queries and keys, ``t [B, 1]`` steps after the episode began."""
        if self.rotary == "none":
            return program
        steps = torch.arange(1, program.query.shape[0] + 1, dtype=torch.float64, device=t.device)
        now = (t.double() + steps[:, None, None]).unsqueeze(-1)
        share = now * torch.tensor(self.turns, dtype=torch.float64, device=t.device)  # [T, B, heads, d/2]
        angle = ((share - share.floor()) * (2 * math.pi)).to(program.query.dtype)
        cos, sin = angle.cos(), angle.sin()
        return program._replace(query=turn(program.query, cos, sin), key=turn(program.key, cos, sin))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the coordinates 2j and 2j + 1 of x [..., d] by angle j, given by ``cos`` and ``sin`` [..., d // 2]."""
    pairs = x[..., : 2 * cos.shape[-1]]
    even, odd = pairs[..., 0::2], pairs[..., 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([turned, x[..., pairs.shape[-1] :]], -1)
