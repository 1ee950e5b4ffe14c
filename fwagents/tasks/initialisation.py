"""Initialisation of the weights around a core."""

from torch import nn


def uniform_by_outputs(module: nn.Module) -> None:
    """Weights of linear layers uniform in +-1/sqrt(outgoing units), biases zero: Ba et al. (2016), section 4.

    For ``nn.Module.apply``; whatever is no linear layer is left alone.
    """
    if isinstance(module, nn.Linear):
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)
