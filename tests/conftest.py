"""Shared by all tests."""

import pytest
import torch

# The tests run side by side, a process a core; threads of their own would only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Double precision as torch's default, for what must hold to rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
