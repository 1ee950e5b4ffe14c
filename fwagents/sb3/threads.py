"""A warning of torch threads that slow a small agent down."""

import warnings
from functools import cache

import torch

# Units up to which a second torch thread was not seen to pay, even with both cores idle, without an image encoder.
LARGEST_OF_ONE_THREAD = 256


def check_threads(hidden_size: int, device: torch.device) -> None:
    """Warn, once a process, of torch threads that an agent of ``hidden_size`` units on the CPU is too small for."""
    if hidden_size <= LARGEST_OF_ONE_THREAD and device.type == "cpu" and torch.get_num_threads() > 1:
        _warn(
            f"torch has {torch.get_num_threads()} threads, but an agent of {LARGEST_OF_ONE_THREAD} units or fewer is "
            "fastest on one, and many times faster where the cores are busy: call torch.set_num_threads(1)"
        )


@cache
def _warn(message: str) -> None:
    """Once a process for every message."""
    warnings.warn(message, stacklevel=2)
