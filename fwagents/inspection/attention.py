"""Reads of a fast memory as attention to its earlier writes: exact, for every inner step and every head."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fwagents.cores import FastWeights, MemoryCore
from fwagents.cores.programmer import FastWeightProgrammer, Program

FAST_MEMORIES = (FastWeights, FastWeightProgrammer)


class Reads(NamedTuple):
    """Reads of a sequence from its fast memory; T steps, B rows, S inner steps, keys of d and values of E numbers.

    Every core with a fast memory writes and reads in the same way, in each of its heads::

        W(t)     = decay(t) W(t-1) + written(t) key(t)^T
        W query  = sum over tau of weights[..., tau] written(tau)

    ``FastWeights`` has one head, with d = E = R, and reads it S times a step. It reads before it writes, so a step has
    no part in its own reads. A ``FastWeightProgrammer`` reads each of its heads once a step (S = 1), after the write,
    so a step has a part in its own read.

    Attributes:
        keys: [T, B, heads, d], as multiplied: normalised and rotated if the core does so.
        written: [T, B, heads, E], the vector that each step writes under its key.
        queries: [T, B, heads, S, d], as multiplied.
        weights: [T, B, heads, S, T], weight of step tau (last dimension) in a read.
        decay: [T, B, heads], factor on the memory before each step's write.
        taken: int64 [T, B], number of inner steps of each step: S, or fewer if an adaptive row settled earlier.

    For an adaptive row that settles before S inner steps, the later entries repeat its last read.
    """

    keys: Tensor
    written: Tensor
    queries: Tensor
    weights: Tensor
    decay: Tensor
    taken: Tensor


def has_fast_memory(core: MemoryCore[Any]) -> bool:
    """Return whether ``reads`` supports the core."""
    return isinstance(core, FAST_MEMORIES) and getattr(core, "inner_steps", 1) != 0


@torch.no_grad()
def reads(core: MemoryCore[Any], x: Tensor, y: Tensor, start: Tensor) -> Reads:
    """Return every read of a sequence that begins with an empty memory.

    The weight of step tau in a read of step t is the product of the decays since tau, times key(tau) . query(t), if
    both steps are in the same episode, else 0. ``written`` is fast_lr times the key, h or h / |h|, for ``FastWeights``;
    v for the sum rule; and beta (v - alpha W k) for the delta rule, with the W before the write. The sum rule divides
    its read, so its weights are divided by the same number.

    Args:
        core: ``FastWeights`` with inner steps, or a ``FastWeightProgrammer``.
        x: inputs of the core [T, B, D].
        y: outputs of the core for these inputs [T, B, H].
        start: bool [T, B], True where a step opens an episode; True at the first step of every row.

    Raises:
        TypeError: the core has no fast memory.
    """
    if not has_fast_memory(core):
        raise TypeError(f"core is {core}, expected FastWeights with inner steps, or a FastWeightProgrammer")
    if isinstance(core, FastWeights):
        return _reads_of_fast_weights(core, x, y, start)
    assert isinstance(core, FastWeightProgrammer)
    return _reads_of_programmer(core, x, start)


def _reads_of_fast_weights(core: FastWeights, x: Tensor, y: Tensor, start: Tensor) -> Reads:
    """Compute equations 3 and 4 of Ba et al. (2016) for all steps at once, since the outputs are known."""
    decays = _decays(core, start)
    keys = core.key(y)
    written = core.options.fast_lr * keys
    queries, weights = [], []

    def read(s: Tensor) -> Tensor:
        queries.append(s)
        weights.append(torch.einsum("tbr,ubr->tbu", s, keys) * decays)
        return torch.einsum("tbu,ubr->tbr", weights[-1], written)

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
    decay = torch.full_like(keys[..., 0], core.options.decay)
    keys, written, every, each, decay = (part.unsqueeze(2) for part in (keys, written, every, each, decay))
    return Reads(keys, written, every, each, decay, taken)


def _decays(core: FastWeights, start: Tensor) -> Tensor:
    """Return the decay of step tau's write at step t: decay^(t - 1 - tau), or 0 [T, B, T]."""
    T = len(start)
    step = torch.arange(T, device=start.device)
    age = step[:, None] - 1 - step
    episode = start.cumsum(0)
    seen = (age >= 0).unsqueeze(1) & (episode.unsqueeze(-1) == episode.T)
    like = core.bias
    decayed = core.options.decay ** age.clamp(min=0).to(like.dtype)
    return torch.where(seen, decayed.unsqueeze(1), like.new_zeros(()))


def _reads_of_programmer(core: FastWeightProgrammer, x: Tensor, start: Tensor) -> Reads:
    """Compute the reads of every episode of every row in turn."""
    T, B = start.shape
    heads, d = core.num_heads, core.hidden_size // core.num_heads
    keys, written, queries = (x.new_zeros(T, B, heads, d) for _ in range(3))
    weights, decay = x.new_zeros(T, B, heads, T), x.new_ones(T, B, heads)
    for b, begin, end in _episodes(start):
        program, _ = core.project(x[begin:end, b : b + 1], core.initial_state(1))
        keys[begin:end, b], queries[begin:end, b] = program.key[:, 0], program.query[:, 0]
        if program.log_decay is not None:
            decay[begin:end, b] = program.log_decay[:, 0].exp()
        for head in range(heads):
            alone = Program._make(None if part is None else part[:, 0, head].double() for part in program)
            weights[begin:end, b, head, begin:end], written[begin:end, b, head] = _unrolled(core, alone)
    taken = torch.ones(T, B, dtype=torch.int64, device=start.device)
    return Reads(keys, written, queries.unsqueeze(3), weights.unsqueeze(3), decay, taken)


def _episodes(start: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield the row, the first step, and the step after the last step of every episode."""
    for b, opens in enumerate(start.T):
        begins = [*opens.nonzero().flatten().tolist(), len(start)]
        for begin, end in pairwise(begins):
            yield b, begin, end


def _unrolled(core: FastWeightProgrammer, program: Program) -> tuple[Tensor, Tensor]:
    """Compute the weights [T, T] and written vectors [T, d] from the program of one row and head, such as keys [T, d].

    The triangular system is the one in ``fwagents.cores.programmer.execute``, for the whole episode. The program is in
    float64, since in float32 the difference of two long sums of log decays would lose too many digits.
    """
    q, k, u, rate, log_decay = program
    log_left = q.new_zeros(len(q), 1) if log_decay is None else log_decay.cumsum(0).unsqueeze(-1)
    between = (log_left - log_left.mT).tril().exp().tril()  # decay at step t (row) of the write of step s (column)
    if rate is not None:
        rate = rate.unsqueeze(-1)
        system = rate * between * (k @ k.mT)
        u = torch.linalg.solve_triangular(system, rate * u, upper=False, unitriangular=True)
    weights = between * (q @ k.mT)
    divisor = core.divisor(weights @ u)
    return weights if divisor is None else weights / divisor, u[:, : k.shape[-1]]


class Growth(NamedTuple):
    """Growth of the fast memory over a sequence.

    Attributes:
        norm: [T, B, heads], Frobenius norm of W after each step.
        effective_rank: [T, B, heads], exp of the entropy of W's singular values divided by their sum (Roy and
            Vetterli, 2007): n if n singular values are equal and the others zero; 0 if W is zero.
    """

    norm: Tensor
    effective_rank: Tensor


@torch.no_grad()
def growth(reads: Reads, start: Tensor) -> Growth:
    """Compute the growth of W over a sequence from its ``reads``, with the same ``start``, bool [T, B].

    W is A for ``FastWeights``. The sum rule's normaliser is not part of W.
    """
    W = reads.keys.new_zeros(*reads.keys.shape[1:3], reads.written.shape[-1], reads.keys.shape[-1])
    norms, ranks = [], []
    for key, written, decay, first in zip(reads.keys, reads.written, reads.decay, start, strict=True):
        W = torch.where(first[:, None, None, None], torch.zeros_like(W), W)
        W = decay[..., None, None] * W + written.unsqueeze(-1) * key.unsqueeze(-2)
        # In float32 LAPACK does not always converge on matrices of such low rank.
        values = torch.linalg.svdvals(W.double()).to(W.dtype)
        total = values.sum(-1)
        share = values / total.unsqueeze(-1)
        ranks.append(torch.where(total > 0, torch.special.entr(share).sum(-1).exp(), total))
        norms.append(W.flatten(2).norm(dim=2))
    return Growth(torch.stack(norms), torch.stack(ranks))
