"""The fast-weight scan in eager torch, written twice: with the matrix A, and as attention to the past.

Both follow Ba et al. (2016), equations 1-5, line by line. They are the reference against which every compiled backend
is tested, so they are kept simple and are never optimised.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STORAGE_EPS = 1e-8


class ScanOptions(NamedTuple):
    """Options that stay fixed over a scan; the paper's symbols are in parentheses.

    Attributes:
        inner_steps: reads of the fast memory per time step (S), at least 1.
        decay: factor on the fast weights per time step (lambda).
        fast_lr: rate at which a hidden state is written (eta).
        sustained: True keeps ``W h + C x`` at every inner step; False is the paper's "method 2" (appendix B),
            where the identity is added to A and the loop holds the state itself.
        normalize_storage: True writes ``h / |h|`` instead of h.
        norm_eps: added to the variance inside the layer norm.
        tolerance: a row has settled once an inner step changes its state by at most ``tolerance`` times the state's
            norm, and then takes no more inner steps; ``inner_steps`` is the largest number. None: every row takes
            ``inner_steps``.
    """

    inner_steps: int = 1
    decay: float = 0.95
    fast_lr: float = 0.5
    sustained: bool = True
    normalize_storage: bool = False
    norm_eps: float = 1e-5
    tolerance: float | None = None


class ScanInputs(NamedTuple):
    """Tensors of a scan; T steps, B rows of the batch, R units, D inputs, S inner steps.

    Attributes:
        drive: input to each step before the recurrence, ``C x + b`` [T, B, R]; or x itself [T, B, D], with C and b
            in ``weight_ih`` and ``bias``.
        weight_hh: slow recurrent weights W [R, R].
        h: hidden state before the first step [B, R]; None means zero, and is cheaper than a tensor of zeros.
        A: fast weights before the first step, with ``h`` already written into them [B, R, R]; None means zero.
        start: bool [T, B], True at the first step of an episode; the row's h and A are set to zero before that step.
        gain: layer-norm gain [1 or S, R], one row shared by all inner steps or a row for each; None for no layer norm.
        shift: layer-norm bias, of the shape of ``gain``.
        weight_ih: C [R, D] if ``drive`` is x, else None.
        bias: b [R] if ``drive`` is x, else None.
    """

    drive: Tensor
    weight_hh: Tensor
    h: Tensor | None = None
    A: Tensor | None = None
    start: Tensor | None = None
    gain: Tensor | None = None
    shift: Tensor | None = None
    weight_ih: Tensor | None = None
    bias: Tensor | None = None


class ScanResult(NamedTuple):
    """Hidden states ``y [T, B, R]`` and the state after the last step, ``h [B, R]`` and ``A [B, R, R]``."""

    y: Tensor
    h: Tensor
    A: Tensor


def inner_loop(
    boundary: Tensor,
    read: Callable[[Tensor], Tensor],
    gain: Tensor | None,
    shift: Tensor | None,
    options: ScanOptions,
    taken: Tensor | None = None,
) -> Tensor:
    """Run the inner loop, equation 5, from ``boundary = W h + C x`` [..., R] to the settled state [..., R].

    ``read`` maps the state s of the loop to A s, both [..., R]. With a tolerance, each row's number of inner steps is
    added to ``taken``, int64 [...].
    """
    inner_step = partial(_inner_step, boundary, read, gain, shift, options)
    s = torch.relu(boundary)
    if options.tolerance is None:
        for i in range(options.inner_steps):
            s = inner_step(s, i)
        return s
    moving = torch.ones(*s.shape[:-1], 1, dtype=torch.bool, device=s.device)
    for i in range(options.inner_steps):
        if taken is not None:
            taken += moving.squeeze(-1)
        before, s = s, torch.where(moving, inner_step(s, i), s)
        moving = moving & ~(_length(s - before) <= options.tolerance * _length(before))  # a NaN never settles
    return s


def _inner_step(
    boundary: Tensor,
    read: Callable[[Tensor], Tensor],
    gain: Tensor | None,
    shift: Tensor | None,
    options: ScanOptions,
    s: Tensor,
    i: int,
) -> Tensor:
    """Run inner step i, from ``s``, h_i [..., R], to h_{i+1}."""
    total = (boundary if options.sustained else s) + read(s)
    if gain is not None and shift is not None:
        row = min(i, len(gain) - 1)
        total = F.layer_norm(total, total.shape[-1:], gain[row], shift[row], options.norm_eps)
    return torch.relu(total)


def _length(x: Tensor) -> Tensor:
    """Return |x| of every row: [..., R] -> [..., 1]."""
    return x.detach().square().sum(-1, keepdim=True).sqrt()


def key(h: Tensor, options: ScanOptions) -> Tensor:
    """Return the key to write: h, or h / |h|. The epsilon keeps the gradient finite at h = 0."""
    if not options.normalize_storage:
        return h
    return h * torch.rsqrt(h.square().sum(-1, keepdim=True) + STORAGE_EPS)


def _cleared(x: Tensor, start: Tensor) -> Tensor:
    """Set the rows of x [B, ...] at an episode start to zero; with ``where``, since NaN times zero is NaN."""
    return torch.where(start.reshape(-1, *[1] * (x.dim() - 1)), torch.zeros_like(x), x)


def _settled(
    inputs: ScanInputs,
    boundary: Tensor,
    read: Callable[[Tensor], Tensor],
    options: ScanOptions,
    taken: Tensor | None,
    t: int,
) -> Tensor:
    """Run the inner loop of step t."""
    return inner_loop(boundary, read, inputs.gain, inputs.shift, options, None if taken is None else taken[t])


def _opening(inputs: ScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the drive [T, B, R] and the state before the first step, zeros where it is None."""
    drive, h, A = inputs.drive, inputs.h, inputs.A
    if inputs.weight_ih is not None:
        drive = F.linear(drive, inputs.weight_ih, inputs.bias)
    _, batch, size = drive.shape
    h = drive.new_zeros(batch, size) if h is None else h
    return drive, h, drive.new_zeros(batch, size, size) if A is None else A


def matrix_form(inputs: ScanInputs, options: ScanOptions, taken: Tensor | None = None) -> ScanResult:
    """Run equations 1 and 5 with an explicit matrix A, at R^2 numbers a row and a cost of R^2 a step.

    See ``fwagents.kernels.fast_weight_scan`` for the arguments.
    """
    (drive, h, A), start = _opening(inputs), inputs.start
    y = []
    for t in range(len(drive)):
        if start is not None:
            h, A = _cleared(h, start[t]), _cleared(A, start[t])
        h = _settled(inputs, drive[t] + h @ inputs.weight_hh.T, partial(_multiply, A), options, taken, t)
        k = key(h, options)
        A = options.decay * A + options.fast_lr * k.unsqueeze(-1) * k.unsqueeze(-2)
        y.append(h)
    return ScanResult(torch.stack(y), h, A)


def attention_form(inputs: ScanInputs, options: ScanOptions, taken: Tensor | None = None) -> ScanResult:
    """Run equations 3-4: a read attends to the stored keys, at a cost of 2 t R at step t, and A is never formed.

    ``A(t) s = decay^t A(0) s + fast_lr * sum over tau of decay^(t - tau) k(tau) [k(tau) . s]``

    See ``fwagents.kernels.fast_weight_scan`` for the arguments.
    """
    (drive, h, A), start = _opening(inputs), inputs.start
    y, keys = [], drive.new_zeros(0, *h.shape)
    for t in range(len(drive)):
        if start is not None:
            h, A = _cleared(h, start[t]), _cleared(A, start[t])
            keys = _cleared(keys.transpose(0, 1), start[t]).transpose(0, 1)
        read = partial(_attend, keys, _decays(t, options, drive), options.decay**t * A)
        h = _settled(inputs, drive[t] + h @ inputs.weight_hh.T, read, options, taken, t)
        keys = torch.cat([keys, key(h, options).unsqueeze(0)])
        y.append(h)
    T = len(drive)
    A = options.decay**T * A + torch.einsum("t,tbr,tbq->brq", _decays(T, options, drive)[:, 0], keys, keys)
    return ScanResult(torch.stack(y), h, A)


def settle(boundary: Tensor, stored: Tensor, gain: Tensor | None, shift: Tensor | None, options: ScanOptions) -> Tensor:
    """Run equation 5 alone, with a memory into which the states ``stored`` [n, B, R] were written in order.

    It maps ``boundary`` [B, R] to the settled state [B, R]. The memory is empty before the first write.
    """
    attend = partial(_attend, key(stored, options), _decays(len(stored), options, boundary), None)
    return inner_loop(boundary, attend if len(stored) else torch.zeros_like, gain, shift, options)


def _multiply(A: Tensor, s: Tensor) -> Tensor:
    """Return A s, row by row: [B, R, R], [B, R] -> [B, R]."""
    return torch.einsum("brq,bq->br", A, s)


def _attend(keys: Tensor, weights: Tensor, carried: Tensor | None, s: Tensor) -> Tensor:
    """Attend to the keys [t, B, R] with weights [t, 1], and add the read of the initial memory [B, R, R], if any."""
    scores = torch.einsum("tbr,br->tb", keys, s) * weights
    found = torch.einsum("tb,tbr->br", scores, keys)
    return found if carried is None else found + _multiply(carried, s)


def _decays(t: int, options: ScanOptions, like: Tensor) -> Tensor:
    """Return the weight of each of t stored keys in a read, the newest last: fast_lr * decay^age [t, 1]."""
    age = torch.arange(t - 1, -1, -1, device=like.device, dtype=like.dtype)
    return (options.fast_lr * options.decay**age).unsqueeze(-1)
