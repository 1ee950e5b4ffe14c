"""Runs a compiled kernel over the rows of a batch, on up to as many threads as torch uses.

The kernels release the GIL, so plain Python threads suffice, and Numba starts no OpenMP or TBB pool. A forked process
makes its own pool of threads.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from fwagents.kernels.cpu.problem import TILE

WORTH_A_THREAD = 2_000_000  # multiplications; fewer take less time than waking a thread


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fwagents-scan")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def tasks(batch: int, work: int) -> int:
    """Return the number of tasks into which to split a batch whose scan takes ``work`` multiplications."""
    return max(1, min(torch.get_num_threads(), -(-batch // TILE), work // WORTH_A_THREAD))


def _hold(task: Callable[[int, int, int], None], begin: int, end: int, which: int, alive: object) -> None:
    task(begin, end, which)


def run(task: Callable[[int, int, int], None], batch: int, count: int, alive: object) -> None:
    """Call ``task(begin, end, which)`` for ``count`` parts of the batch, the first part on this thread.

    ``alive`` holds the objects that the task uses by address only. An interrupt can end this call before the other
    threads are done, so each thread keeps a reference to these objects.
    """
    tiles = -(-batch // TILE)
    cuts = [min(batch, tiles * i // count * TILE) for i in range(count + 1)]
    others = [_pool().submit(_hold, task, cuts[i], cuts[i + 1], i, alive) for i in range(1, count)]
    task(cuts[0], cuts[1], 0)
    for other in others:
        other.result()
