"""Small agents warn once of torch threads that slow them down."""

import warnings

import pytest
import torch

from fwagents.sb3 import MemoryA2C, MemoryPPO, on_policy

SIZE = {"num_envs": 2, "n_steps": 4}


@pytest.fixture
def _threads(monkeypatch):
    on_policy._warn.cache_clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    yield
    on_policy._warn.cache_clear()


def warned(build):
    """How often building agents warns of threads."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    return sum("set_num_threads(1)" in str(warning.message) for warning in caught)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C])
def test_once_a_process(algorithm):
    assert warned(lambda: [algorithm.for_env("MemoryChain-v0", **SIZE, hidden_size=8) for _ in range(2)]) == 1


@pytest.mark.usefixtures("_threads")
def test_not_where_threads_may_pay():
    assert warned(lambda: MemoryPPO.for_env("MemoryChain-v0", **SIZE, hidden_size=257)) == 0


def test_not_on_one_thread():
    on_policy._warn.cache_clear()
    assert warned(lambda: MemoryPPO.for_env("MemoryChain-v0", **SIZE, hidden_size=8)) == 0
