"""Record the memory of a core that runs over sequences."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwagents.cores import MemoryCore
from fwagents.inspection.attention import growth as grown_by
from fwagents.inspection.attention import has_fast_memory
from fwagents.inspection.attention import reads as reads_of
from fwagents.inspection.attribution import attribution as attribute
from fwagents.inspection.traces import Trace


def trace_sequences(
    core: MemoryCore[Any],
    x: Tensor,
    *,
    start: Tensor | None = None,
    attention: bool = True,
    growth: bool = True,
    attribution: bool = False,
    readout: Callable[[Tensor], Tensor] | None = None,
) -> Trace:
    """Run a core over sequences, from its initial state, and record the memory's activity.

    Args:
        core: any core.
        x: inputs [T, B, D].
        start: bool [T, B], True where a step opens an episode; the first step of every row always does.
        attention: whether to record the attention of a fast memory, T^2 numbers a row for each head or inner step.
        growth: whether to record the norm and the effective rank of a fast memory, which needs its singular values at
            every step; no effect without attention.
        attribution: whether to record the attribution, which takes T backward passes.
        readout: function from outputs [T, B, H] to scores [T, B, n], for the attribution; the highest score of a step
            is differentiated.

    Raises:
        ValueError: a shape is not as above, or ``attribution`` is True without a readout.
    """
    if attribution and readout is None:
        raise ValueError("attribution is True and readout None, expected a function from outputs to scores")
    x = x.detach().requires_grad_(attribution)
    with torch.set_grad_enabled(attribution):
        y, _ = core(x, start=start)
        scores = None if readout is None or not attribution else readout(y).amax(-1)
    opens = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device) if start is None else start.clone()
    opens[0] = True
    return Trace(
        **recorded(core, x, y, opens, attention, growth, None if scores is None else (scores, [x])),
        length=np.full(x.shape[1], len(x)),
        start=to_numpy(opens),
    )


def recorded(
    core: MemoryCore[Any],
    x: Tensor,
    y: Tensor,
    start: Tensor,
    attention: bool,
    growth: bool,
    scores: tuple[Tensor, Sequence[Tensor]] | None,
) -> dict[str, Any]:
    """Return the parts of a ``Trace`` that follow from the core's inputs and outputs, by name.

    Args:
        core: any core.
        x: inputs of the core [T, B, D].
        y: outputs of the core [T, B, H].
        start: bool [T, B].
        attention: whether to record the attention.
        growth: whether to record norm and effective rank.
        scores: scores [T, B], and the tensors by which to differentiate them; None for no attribution.
    """
    found: dict[str, Any] = {"core": type(core).__name__, "inputs": to_numpy(x), "hidden": to_numpy(y)}
    if scores is not None:
        found["attribution"] = to_numpy(attribute(*scores))
    if attention and has_fast_memory(core):
        reads = reads_of(core, x, y, start)
        found.update({name: to_numpy(getattr(reads, name)) for name in ("keys", "written", "queries")})
        found.update(attention=to_numpy(reads.weights), inner_steps=to_numpy(reads.taken))
        if growth:
            grown = grown_by(reads, start)
            found.update(norm=to_numpy(grown.norm), effective_rank=to_numpy(grown.effective_rank))
    return found


def to_numpy(x: Tensor) -> Any:
    """Return a tensor as an array, from any device."""
    return x.detach().cpu().numpy()
