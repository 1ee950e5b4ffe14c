"""Memory for traces and scratch: kept between calls, and in huge pages where it is large.

A trace is written once and read once, so the page faults of a fresh one can cost more than the scan itself.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

HUGE_PAGE = 1 << 21
ADVICE_HUGE_PAGE = 14  # MADV_HUGEPAGE in Linux's sys/mman.h
KEEP = 1 << 30  # bytes of free blocks, at most
POOLED = 1 << 12  # floats; malloc gives larger ones back to the system and faults them in again


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
        advise(begin, end - begin, ADVICE_HUGE_PAGE)  # advice: a refusal changes nothing but speed
    return out


class _Lease(np.ndarray[Any, np.dtype[np.float32]]):
    """A block on loan; the tensor made from it holds the only reference, so its end gives the block back."""

    block: Tensor

    def __del__(self) -> None:
        block = getattr(self, "block", None)  # a view has none
        if block is not None:
            _pool.give_back(block)


def _bucket(size: int) -> int:
    """``size`` rounded up to an eighth of a power of two, so that blocks are found again."""
    step = max(1 << (size.bit_length() - 4), 1)
    return -(-size // step) * step


class _Pool:
    """Free blocks by size, the longest unused dropped first.

    There is no lock: Python drops an interrupt that falls into a destructor, which could leave one locked for good.
    Each operation on ``free`` is whole by itself; where threads or an interrupt come between two of them, a block is
    lost to the pool and freed, no more.
    """

    def __init__(self) -> None:
        self.free: dict[int, list[Tensor]] = {}

    @property
    def kept(self) -> int:
        """Floats in free blocks."""
        return sum(size * len(blocks) for size, blocks in list(self.free.items()))

    def take(self, floats: int) -> Tensor:
        size = _bucket(floats)
        try:
            return self.free[size].pop()
        except (KeyError, IndexError):
            return _fresh(size)

    def give_back(self, block: Tensor) -> None:
        size = block.numel()
        blocks = self.free.pop(size, [])
        blocks.append(block)
        self.free[size] = blocks
        while 4 * self.kept > _kept_bytes():
            self.free.pop(next(iter(list(self.free)), 0), None)


@cache
def _kept_bytes() -> int:
    """How much the pool may hold: an eighth of the machine's memory, at most KEEP."""
    try:
        return min(KEEP, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
    except (AttributeError, ValueError):
        return KEEP


_pool = _Pool()


def borrowed(*shape: int) -> Tensor:
    """Uninitialised float32 on the CPU; what is large comes from a block that outlives the tensor."""
    floats = prod(shape)
    if floats < POOLED:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    block = _pool.take(floats)
    lease = block.numpy()[:floats].view(_Lease)
    lease.block = block
    return torch.from_numpy(lease).view(shape)
