"""Random draws computed from counters: an environment in a batch draws the same numbers as alone.

Each environment has a 64-bit key, taken from Gymnasium's seeded generator, and a counter of its episodes. A draw is a
hash of (key, episode, number of the draw). It does not depend on the size of the batch, needs no loop over
environments, and only the key and the counter have to be saved.

The hash is splitmix64: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
"""

from typing import Any

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15


def new_key(rng: np.random.Generator) -> np.uint64:
    """Draw a key for one environment."""
    return rng.integers(0, 2**64, dtype=np.uint64)


def mix(x: UInts) -> UInts:
    """Apply splitmix64's output function, a bijection in which every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(key: UInts, episode: UInts, numbers: npt.NDArray[np.integer[Any]], count: int) -> npt.NDArray[np.int64]:
    """Draw whole numbers below `count`, the `numbers`-th [n] of each `episode` [B] under its `key` [B], as [B, n].

    The distribution is uniform up to a bias of at most count / 2^32.
    """
    drawn: npt.NDArray[Any] = (_bits(key, episode, numbers) >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
    return drawn.astype(np.int64)


def draw_order(key: UInts, episode: UInts, numbers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Draw an order of n things [B, n] from the `numbers`-th draws [n] of each `episode` [B] under its `key` [B].

    The distribution is uniform, except that two of the n draws of 64 bits may be equal by chance.
    """
    return np.argsort(_bits(key, episode, numbers), axis=1).astype(np.int64)


def _bits(key: UInts, episode: UInts, numbers: npt.NDArray[np.integer[Any]]) -> UInts:
    """Compute 64 random bits for each draw [B, n]."""
    stream = mix(key + (episode + np.uint64(1)) * np.uint64(_GOLDEN))
    return mix(stream[:, None] + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))
