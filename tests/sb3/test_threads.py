"""Small agents warn once if torch's threads slow them down."""

import warnings

import pytest
import torch
from sb3_contrib import RecurrentPPO

from fwagents.sb3 import MemoryA2C, MemoryPolicy, MemoryPPO, make_vec_env, threads

ENV = "MemoryChain-v0"
SIZE = {"num_envs": 2, "n_steps": 4}


@pytest.fixture
def _threads(monkeypatch):
    threads._warn.cache_clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    yield
    threads._warn.cache_clear()


def warned(build):
    """Build agents and return the number of warnings about threads."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    return sum("set_num_threads(1)" in str(warning.message) for warning in caught)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C, RecurrentPPO])
def test_once_a_process(algorithm):
    venv = make_vec_env(ENV, 2)
    options = {"n_steps": 4, "device": "cpu", "policy_kwargs": {"hidden_size": 8}}
    assert warned(lambda: [algorithm(MemoryPolicy, venv, **options) for _ in range(2)]) == 1


@pytest.mark.usefixtures("_threads")
def test_not_where_threads_may_pay():
    assert warned(lambda: MemoryPPO.for_env(ENV, **SIZE, hidden_size=260)) == 0


def test_not_on_one_thread():
    threads._warn.cache_clear()
    assert warned(lambda: MemoryPPO.for_env(ENV, **SIZE, hidden_size=8)) == 0
