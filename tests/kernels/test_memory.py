"""The memory pool for traces and scratch arrays."""

import gc
from concurrent.futures import ThreadPoolExecutor

from fwagents.kernels.cpu import memory
from fwagents.kernels.cpu.memory import borrowed


def test_a_block_is_taken_again_only_when_its_tensor_is_gone():
    size = 3 * memory.POOLED + 5
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


def test_the_pool_holds_no_more_than_it_may(monkeypatch):
    monkeypatch.setattr(memory, "_held_bytes", lambda: 4 * 40_000)
    pool = memory._Pool()
    lent = [pool.lend(16_384) for _ in range(3)]
    assert pool.held == 2 * 16_384, "the third is nobody's but the caller's"
    assert len({array.ctypes.data for array in lent}) == 3
    first = lent[0].ctypes.data
    del lent[0]
    gc.collect()
    assert pool.lend(16_384).ctypes.data == first
    gc.collect()
    assert pool.lend(20_480).shape == (20_480,)
    assert pool.held == 16_384 + 20_480, "the free one made room"
    gc.collect()
    pool.lend(32_768)
    assert pool.held == 16_384, "what is lent stays, and leaves no room"


def test_threads_never_share_a_block():
    """Each thread fills its block with its own number and later finds no other number in it."""
    size = memory.POOLED

    def work(number):
        for _ in range(300):
            mine = borrowed(size).fill_(number)
            other = borrowed(size).fill_(-number)
            if not ((mine == number).all() and (other == -number).all()):
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(1, 5)))


def test_shapes():
    assert borrowed(2, 3).shape == (2, 3)
    assert borrowed(0).shape == (0,)
    assert borrowed(300, 400).is_contiguous()
