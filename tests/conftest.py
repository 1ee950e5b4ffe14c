"""Settings and fixtures of all tests."""

import multiprocessing
import os
import signal
import tempfile

import pytest
import torch

# A shell that starts the tests in the background makes them ignore Ctrl-C, and with them every run that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton reads this when it is imported: without a GPU its kernels run on the CPU.
os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"

# Processes that tests start have the slowest imports done.
multiprocessing.set_forkserver_preload(["fwagents.sb3.checkpoints", "fwagents.tasks.training", "sb3_contrib"])

# The tests run in parallel, one process per CPU core, so more threads would only slow each other down.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Redirect the temporary folders that Stable-Baselines3 makes for every model that learns, and never removes."""
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Make double precision torch's default, for equalities that hold up to rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def fresh_compiler():
    """Forget what torch has compiled: it compiles one function only so many times in a process."""
    torch.compiler.reset()
