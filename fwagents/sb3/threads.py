"""A warning about torch threads that slow a small agent down."""

import warnings
from functools import cache

import torch

# Largest hidden size at which a second torch thread did not help, even on idle cores, without an image encoder.
LARGEST_OF_ONE_THREAD = 256


def check_threads(hidden_size: int, device: torch.device) -> None:
    """Warn, once per process, if torch has more than one thread for a small agent on the CPU."""
    if hidden_size <= LARGEST_OF_ONE_THREAD and device.type == "cpu" and torch.get_num_threads() > 1:
        _warn(
            f"torch has {torch.get_num_threads()} threads, but an agent of {LARGEST_OF_ONE_THREAD} units or fewer is "
            "fastest on one, and many times faster where the cores are busy: call torch.set_num_threads(1)"
        )


@cache
def _warn(message: str) -> None:
    """Give each warning once per process."""
    warnings.warn(message, stacklevel=2)
