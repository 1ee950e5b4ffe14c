"""Shared by all tests."""

import multiprocessing
import os
import signal
import tempfile

import pytest
import torch

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every run that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton reads this when it is imported: without a GPU its kernels run on the CPU.
os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"

# Processes that tests start begin with what is slow to import.
multiprocessing.set_forkserver_preload(["fwagents.sb3.checkpoints", "fwagents.tasks.training", "sb3_contrib"])

# The tests run side by side, a process a core; threads of their own would only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stable-Baselines3 makes a temporary folder for every model that learns, and leaves it there."""
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Double precision as torch's default, for what must hold to rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def fresh_compiler():
    """Forget what torch has compiled: it compiles one function only so many times in a process."""
    torch.compiler.reset()
