"""Effect of more reads before any training: how well the settled state still distinguishes the keys."""

import numpy as np
import torch

from fwagents.commands.retrieval import EXPANSION
from fwagents.cores import FastWeights
from fwagents.tasks.retrieval import RetrievalModel, RetrievalTask

STRINGS, SEEDS = 200, (0, 1, 2)


def told_apart(hidden_size: int, inner_steps: int, fast_lr: float, normalize_storage: bool) -> float:
    """Return the distance between states after the same string, each with another of its keys as the question.

    Args:
        hidden_size: R.
        inner_steps: S.
        fast_lr: rate at which h is stored.
        normalize_storage: whether h is normalised before it is stored.

    Returns:
        Distance of the last state from its mean over the keys, as a share of its norm: the mean over strings and nets.
    """
    task = RetrievalTask()
    tokens = task.draw(STRINGS, np.random.default_rng(0)).inputs
    keys = range(0, 2 * task.pairs, 2)
    asked = torch.cat([torch.cat([tokens[:, :-1], tokens[:, key : key + 1]], 1) for key in keys])
    apart = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        core = FastWeights(
            EXPANSION, hidden_size, inner_steps=inner_steps, fast_lr=fast_lr, normalize_storage=normalize_storage
        )
        model = RetrievalModel(core)
        with torch.no_grad():
            y, _ = core(model.core_inputs(asked))
        states = y[-1].unflatten(0, (len(keys), STRINGS))
        distances = (states - states.mean(0)).norm(dim=-1) / states.norm(dim=-1)
        apart.append(distances.mean().item())
    return float(np.mean(apart))
