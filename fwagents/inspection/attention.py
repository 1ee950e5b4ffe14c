"""The read of fast weights as what it is: attention to the steps before. Exact, for every inner step."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.cores import FastWeights


class Reads(NamedTuple):
    """What a sequence reads from its fast memory; T steps, B rows, S inner steps, R units.

    Attributes:
        keys: [T, B, R], what each step writes: its hidden state, or the direction of it.
        queries: [T, B, S, R], ``h_s(t)``: what inner step s multiplies A with.
        weights: [T, B, S, T], of step tau (last) in the read of inner step s: ``weights @ keys`` is ``A h_s``.
        taken: int64 [T, B], the inner steps that each step took: S, but where adaptive ones settled sooner.

    A row that settles sooner than after S steps, which adaptive ones do, holds its last read from there on.
    """

    keys: Tensor
    queries: Tensor
    weights: Tensor
    taken: Tensor


def reads(core: FastWeights, x: Tensor, y: Tensor, start: Tensor) -> Reads:
    """Equations 3 and 4 of Ba et al. (2016), for all steps at once, since what the core put out is known.

    The fast memory that step t reads holds what the steps before it in its episode wrote, the latest undecayed::

        weight of tau = fast_lr decay^(t - 1 - tau) k(tau) . h_s(t)     for tau < t of the same episode, else 0

    Args:
        core: the core.
        x: its inputs [T, B, D].
        y: what it put out for them, from an empty memory [T, B, R].
        start: bool [T, B], True where a step opens an episode.
    """
    decays = _decays(core, start)
    keys = core.key(y)
    queries, weights = [], []

    def read(s: Tensor) -> Tensor:
        queries.append(s)
        weights.append(torch.einsum("tbr,ubr->tbu", s, keys) * decays)
        return torch.einsum("tbu,ubr->tbr", weights[-1], keys)

    before = torch.cat([torch.zeros_like(y[:1]), y[:-1]])
    before = torch.where(start.unsqueeze(-1), torch.zeros_like(y), before)
    taken = torch.zeros(start.shape, dtype=torch.int64, device=start.device)
    core.settle_by(F.linear(before, core.weight_hh) + F.linear(x, core.weight_ih, core.bias), read, taken)
    every, each = torch.stack(queries, 2), torch.stack(weights, 2)
    if core.inner_steps != "adaptive":
        taken.fill_(core.inner_steps)
    else:
        step = torch.arange(len(queries), device=start.device)
        last = torch.minimum(step, taken.unsqueeze(-1) - 1).unsqueeze(-1)
        every, each = (found.take_along_dim(last, 2) for found in (every, each))
    return Reads(keys, every, each, taken)


def _decays(core: FastWeights, start: Tensor) -> Tensor:
    """What is left at step t of what step tau wrote: fast_lr decay^(t - 1 - tau), or 0 [T, B, T]."""
    T = len(start)
    step = torch.arange(T, device=start.device)
    age = step[:, None] - 1 - step
    episode = start.cumsum(0)
    seen = (age >= 0).unsqueeze(1) & (episode.unsqueeze(-1) == episode.T)
    like = core.bias
    decayed = core.options.fast_lr * core.options.decay ** age.clamp(min=0).to(like.dtype)
    return torch.where(seen, decayed.unsqueeze(1), like.new_zeros(()))


class Growth(NamedTuple):
    """How the fast weights of a sequence grow.

    Attributes:
        norm: [T, B], Frobenius norm of A after each step.
        effective_rank: [T, B], exp of the entropy of A's eigenvalues, brought to the sum 1 (Roy and Vetterli, 2007): n
            where n of them are equal and the rest zero; 0 where A is zero.
    """

    norm: Tensor
    effective_rank: Tensor


def growth(core: FastWeights, keys: Tensor, start: Tensor) -> Growth:
    """A after each step, from what the steps write: ``keys`` [T, B, R], ``start`` bool [T, B]."""
    _, B, R = keys.shape
    A = keys.new_zeros(B, R, R)
    norms, ranks = [], []
    for key, first in zip(keys, start, strict=True):
        A = torch.where(first[:, None, None], torch.zeros_like(A), A)
        A = core.options.decay * A + core.options.fast_lr * key.unsqueeze(-1) * key.unsqueeze(-2)
        # In float64: in float32 LAPACK does not always converge on matrices of so low a rank. An eigenvalue below zero
        # is rounding, A being a sum of squares with positive weights.
        eigenvalues = torch.linalg.eigvalsh(A.double()).clamp(min=0).to(A.dtype)
        total = eigenvalues.sum(-1)
        share = eigenvalues / total.unsqueeze(-1)
        ranks.append(torch.where(total > 0, torch.special.entr(share).sum(-1).exp(), total))
        norms.append(A.flatten(1).norm(dim=1))
    return Growth(torch.stack(norms), torch.stack(ranks))
