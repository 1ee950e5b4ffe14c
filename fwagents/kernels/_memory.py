"""Memory for traces and scratch: kept between calls, and in huge pages where it is large.

A trace is written once and read once, so the page faults of a fresh one can cost more than the scan itself.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from math import prod
from threading import Lock
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
    """Free blocks by size, the longest unused dropped first."""

    def __init__(self) -> None:
        self.free: dict[int, list[Tensor]] = {}
        self.kept = 0
        self.lock = Lock()

    def take(self, floats: int) -> Tensor:
        size = _bucket(floats)
        with self.lock:
            blocks = self.free.get(size)
            if blocks:
                self.kept -= size
                return blocks.pop()
        return _fresh(size)

    def give_back(self, block: Tensor) -> None:
        if not self.lock.acquire(blocking=False):  # a collection may run this while this thread is in ``take``
            return
        try:
            size = block.numel()
            blocks = self.free.pop(size, [])
            self.free[size] = [*blocks, block]
            self.kept += size
            while 4 * self.kept > _kept_bytes():
                oldest = next(iter(self.free))
                self.kept -= oldest * len(self.free.pop(oldest))
        finally:
            self.lock.release()


@cache
def _kept_bytes() -> int:
    """How much the pool may hold: an eighth of the machine's memory, at most KEEP."""
    try:
        return min(KEEP, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
    except (AttributeError, ValueError):
        return KEEP


_pool = _Pool()
if hasattr(os, "register_at_fork"):  # another thread of the parent may have held the lock
    os.register_at_fork(after_in_child=lambda: setattr(_pool, "lock", Lock()))


def borrowed(*shape: int) -> Tensor:
    """Uninitialised float32 on the CPU; what is large comes from a block that outlives the tensor."""
    floats = prod(shape)
    if floats < POOLED:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    block = _pool.take(floats)
    lease = block.numpy()[:floats].view(_Lease)
    lease.block = block
    return torch.from_numpy(lease).view(shape)
