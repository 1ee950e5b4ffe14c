"""Attribution of a score to each past input by gradients, which every core has, so that cores can be compared."""

from collections.abc import Sequence

import torch
from torch import Tensor


def attribution(scores: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Compute the norm of the derivative of the score at step t by the input at step tau (Simonyan et al., 2013).

    Args:
        scores: scores [T, B]; row b must depend only on row b of the inputs.
        inputs: tensors [T, B, ...] from which the scores were computed; together they are one input.

    Returns:
        The norms [T, B, T], with tau in the last dimension; zero if the input is later or in another episode.
    """
    rows = []
    for score in scores:
        found = torch.autograd.grad(
            score.sum(), [*inputs], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([gradient.flatten(2) for gradient in found], 2).norm(dim=2).T)
    return torch.stack(rows)
