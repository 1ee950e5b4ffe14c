"""The scan of the fast-weight programmers as a loop in plain torch: the reference of the compiled scan."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SUM_EPSILON = 1e-6  # keeps the divisor of a read above zero


class ProgramOptions(NamedTuple):
    """Constants of a scan.

    Attributes:
        heads: number of heads (h), each with its own matrix W.
        delta: True writes by the delta rule; False adds, and divides each read by the sum of its weights.
        gates: gates of a head: 0 for none, 1 for beta, 2 for beta and alpha.
        silu: apply silu after the convolution.
        turns: turns a step of each pair of coordinates, d // 2 numbers or none.
        first: first head whose queries and keys are rotated.
        every: distance from one rotated head to the next; 0 if no head is rotated.
        norm_eps: added to the variance of the layer norm.
    """

    heads: int
    delta: bool = True
    gates: int = 2
    silu: bool = False
    turns: tuple[float, ...] = ()
    first: int = 0
    every: int = 0
    norm_eps: float = 1e-5


class ProgramInputs(NamedTuple):
    """Tensors of a scan; D inputs, H = h d units, E = d, or d + 1 without the delta rule.

    Attributes:
        x: inputs [T, B, D].
        weight: C, then G and U if there is an output gate: [3H + gates h, D] or [5H + gates h, D].
        bias: bias of the same rows.
        taps: weights of the convolution [c, 3H].
        recent: projections before the first step [B, c - 1, 3H]; None means zero.
        W: fast weights before the first step [B, h, E, d]; None means zero.
        t: steps of the episode so far [B, 1]; None means zero.
        start: bool [T, B], True at the first step of an episode; the row's recent, W and t are zeroed before that step.
        gain: gain of the layer norm before the output gate [H]; None for no output gate.
        shift: bias of the layer norm [H].
        mix: M [H, H].
        mix_bias: m [H].
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    taps: Tensor
    recent: Tensor | None = None
    W: Tensor | None = None
    t: Tensor | None = None
    start: Tensor | None = None
    gain: Tensor | None = None
    shift: Tensor | None = None
    mix: Tensor | None = None
    mix_bias: Tensor | None = None


class ProgramResult(NamedTuple):
    """Outputs ``y [T, B, H]``, and ``recent``, W and t after the last step."""

    y: Tensor
    recent: Tensor
    W: Tensor
    t: Tensor


def loop_form(inputs: ProgramInputs, options: ProgramOptions) -> ProgramResult:
    """Run the recurrence step by step, with the arguments of the compiled scan."""
    x, taps, heads = inputs.x, inputs.taps, options.heads
    (T, B, _), (conv, channels) = x.shape, taps.shape
    size = channels // 3 // heads
    zero_recent, zero_t = x.new_zeros(B, conv - 1, channels), x.new_zeros(B, 1)
    zero_W = x.new_zeros(B, heads, size if options.delta else size + 1, size)
    recent, W, t = (
        zero if given is None else given
        for zero, given in zip((zero_recent, zero_W, zero_t), (inputs.recent, inputs.W, inputs.t), strict=True)
    )
    ys = []
    for step in range(T):
        if inputs.start is not None:
            opens = inputs.start[step]
            recent = torch.where(opens.view(B, 1, 1), zero_recent, recent)
            W = torch.where(opens.view(B, 1, 1, 1), zero_W, W)
            t = torch.where(opens.view(B, 1), zero_t, t)
        t = t + 1
        projected, gates, mixing = torch.split(
            F.linear(x[step], inputs.weight, inputs.bias),
            [channels, options.gates * heads, len(inputs.weight) - channels - options.gates * heads],
            dim=-1,
        )
        reach = torch.cat([recent, projected.unsqueeze(1)], 1)
        recent = reach[:, 1:]
        q, k, v = (taps * reach).sum(1).view(B, 3, heads, size).unbind(1)
        read, W = _step(q, k, v, gates.sigmoid().view(B, options.gates, heads), W, t, options)
        ys.append(read.flatten(1) if inputs.gain is None else _mixed(read.flatten(1), mixing, inputs, options))
    return ProgramResult(torch.stack(ys), recent, W, t)


def _step(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, W: Tensor, t: Tensor, options: ProgramOptions
) -> tuple[Tensor, Tensor]:
    """Write and read: q, k and v [B, h, d] -> read [B, h, d] and W."""
    if not options.delta:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        W = W + torch.cat([v, torch.ones_like(v[..., :1])], -1).unsqueeze(-1) * k.unsqueeze(-2)
        read = (W @ q.unsqueeze(-1)).squeeze(-1)
        return read[..., :-1] / (read[..., -1:] + SUM_EPSILON), W
    if options.silu:
        q, k, v = F.silu(q), F.silu(k), F.silu(v)
    q, k = (_turned(F.normalize(z, dim=-1), t, options) for z in (q, k))
    if options.gates > 1:
        W = gates[:, 1, :, None, None] * W
    error = v.unsqueeze(-1) - W @ k.unsqueeze(-1)
    W = W + gates[:, 0, :, None, None] * error * k.unsqueeze(-2)
    return (W @ q.unsqueeze(-1)).squeeze(-1), W


def _turned(x: Tensor, t: Tensor, options: ProgramOptions) -> Tensor:
    """Rotate the chosen heads of x [B, h, d] by t steps [B, 1]; the count t has no gradient."""
    if not options.every:
        return x
    share = t.detach().double() * torch.tensor(options.turns, dtype=torch.float64, device=t.device)
    angle = ((share - share.floor()) * (2 * math.pi)).to(x.dtype).unsqueeze(1)
    pairs = 2 * len(options.turns)
    even, odd = x[..., :pairs:2], x[..., 1:pairs:2]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    chosen = torch.arange(options.heads, device=x.device) % options.every == options.first
    return torch.where(chosen.view(-1, 1), torch.cat([turned, x[..., pairs:]], -1), x)


def _mixed(read: Tensor, mixing: Tensor, inputs: ProgramInputs, options: ProgramOptions) -> Tensor:
    """Apply the output gate to a read [B, H]; ``mixing`` holds G x + c and U x + u."""
    gate, skip = mixing.chunk(2, -1)
    assert inputs.mix is not None
    normed = F.layer_norm(read, read.shape[-1:], inputs.gain, inputs.shift, options.norm_eps)
    return skip.lerp(F.linear(normed, inputs.mix, inputs.mix_bias), gate.sigmoid())
