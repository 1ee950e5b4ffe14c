"""The memory that traces and scratch are taken from."""

import gc

import torch

from fwagents.kernels import _memory
from fwagents.kernels._memory import borrowed


def test_a_block_is_taken_again_only_when_its_tensor_is_gone():
    size = 3 * _memory.POOLED + 5
    first, second = borrowed(size), borrowed(size)
    assert first.data_ptr() != second.data_ptr()
    at = first.data_ptr()
    view = first[10:20]
    del first
    gc.collect()
    assert borrowed(size).data_ptr() != at, "a view still needs it"
    del view
    gc.collect()
    blocks = [borrowed(size) for _ in range(5)]
    assert at in [block.data_ptr() for block in blocks]


def test_the_pool_drops_what_it_may_not_hold(monkeypatch):
    monkeypatch.setattr(_memory, "_kept_bytes", lambda: 4 * 40_000)
    pool = _memory._Pool()
    for floats in (16_384, 32_768, 65_536):
        pool.give_back(torch.empty(floats))
    assert pool.kept <= 40_000


def test_shapes():
    assert borrowed(2, 3).shape == (2, 3)
    assert borrowed(0).shape == (0,)
    assert borrowed(300, 400).is_contiguous()
