"""Initialisation of the weights around a core."""

from torch import nn


def uniform_by_outputs(module: nn.Module) -> None:
    """Initialise a linear layer: weights uniform in +-1/sqrt(outgoing units), bias zero. Ba et al. (2016), section 4.

    For ``nn.Module.apply``: other modules are not changed.
    """
    if isinstance(module, nn.Linear):
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)
