"""Memory for traces and scratch: kept between calls, in huge pages if it is large.

A trace is written once and read once, so the page faults of fresh memory can cost more time than the scan itself.
"""

import ctypes
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

HUGE_PAGE = 1 << 21
ADVICE_HUGE_PAGE = 14  # MADV_HUGEPAGE in Linux's sys/mman.h
KEEP = 1 << 30  # largest number of bytes that the pool keeps
POOLED = 1 << 12  # floats; malloc returns larger blocks to the system, and a new block causes page faults again


@cache
def _madvise() -> Callable[..., Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _fresh(floats: int) -> Tensor:
    out = torch.empty(floats, dtype=torch.float32, device="cpu")
    size = 4 * floats
    advise = _madvise()
    if size >= 2 * HUGE_PAGE and advise is not None:
        begin = -(-out.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        end = (out.data_ptr() + size) // HUGE_PAGE * HUGE_PAGE
        advise(begin, end - begin, ADVICE_HUGE_PAGE)  # only advice: a refusal costs speed, nothing else
    return out


class _Block(NamedTuple):
    """Memory of the pool, and a weak reference to the array that last used it; it is free without that array."""

    memory: Tensor
    lease: weakref.ref[Array]


def _bucket(size: int) -> int:
    """Return ``size`` rounded up to an eighth of a power of two, so that blocks can be reused."""
    step = max(1 << (size.bit_length() - 4), 1)
    return -(-size // step) * step


class _Pool:
    """Blocks in use and free blocks, by size.

    There is neither a destructor nor a lock: Python drops an interrupt inside a destructor, so Ctrl-C would sometimes
    have no effect. Each operation on a deque is atomic. An interrupt between two operations only makes the pool lose a
    block, which is then freed.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, deque[_Block]] = {}

    @property
    def held(self) -> int:
        """Number of floats in all blocks."""
        return sum(size * len(blocks) for size, blocks in list(self.blocks.items()))

    def lend(self, floats: int) -> Array:
        """Return an uninitialised array whose memory is not reused while the array exists."""
        size = _bucket(floats)
        free = self._free(size)
        if free is not None:
            return self._lent(free, floats)
        memory = _fresh(size)
        if self._has_room(size):
            return self._lent(memory, floats)
        array: Array = memory.numpy()[:floats]
        return array

    def _free(self, size: int) -> Tensor | None:
        """Take a free block of this size out of the pool."""
        blocks = self.blocks.get(size, deque())
        for _ in range(len(blocks)):
            try:
                block = blocks.popleft()
            except IndexError:  # another thread took it first
                return None
            if block.lease() is None:
                return block.memory
            blocks.append(block)
        return None

    def _lent(self, memory: Tensor, floats: int) -> Array:
        """Put a block into the pool, marked as in use."""
        lease: Array = memory.numpy()[:floats]
        size = memory.numel()
        blocks = self.blocks.pop(size, deque())  # reinserted last, since the dict keeps sizes in order of use
        blocks.append(_Block(memory, weakref.ref(lease)))
        self.blocks[size] = blocks
        return lease

    def _has_room(self, floats: int) -> bool:
        """Drop free blocks, least recently used sizes first, until ``floats`` more fit; return whether they fit."""
        for size in list(self.blocks):
            while 4 * (self.held + floats) > _held_bytes() and self._free(size) is not None:
                pass
        return 4 * (self.held + floats) <= _held_bytes()


@cache
def _held_bytes() -> int:
    """Return how many bytes the pool may hold, in use or free: an eighth of the machine's memory, at most KEEP."""
    try:
        return min(KEEP, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
    except (AttributeError, ValueError):
        return KEEP


_pool = _Pool()


def borrowed(*shape: int) -> Tensor:
    """Return an uninitialised float32 tensor on the CPU. A large one uses a pooled block that outlives the tensor."""
    floats = prod(shape)
    if floats < POOLED:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    # The tensor holds the only reference to the array.
    return torch.from_numpy(_pool.lend(floats)).view(shape)
