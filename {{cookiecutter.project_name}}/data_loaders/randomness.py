"""Random numbers that are a function of (seed, epoch, sample index) and of nothing else.

A generator hands out its numbers in the order in which it is asked, so a sample's augmentation would depend
on what was loaded before it, on the number of workers and on where a run was resumed. Hashing a counter has
no such memory: sample 17 in epoch 3 is shifted the same way whenever and wherever it is loaded.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


_MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit numbers: the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return x ^ (x >> np.uint64(31))


def hash_counter(*numbers: int) -> int:
    """Hash whole numbers, in their order, to one of 64 bits: for instance `hash_counter(seed, epoch)`."""
    x = 0
    for number in numbers:  # as `_mix` does; for a few numbers Python's own take a thirtieth of NumPy's time
        x = (x + number + _GOLDEN) & _MASK
        x = ((x ^ (x >> 30)) * _MULTIPLIERS[0]) & _MASK
        x = ((x ^ (x >> 27)) * _MULTIPLIERS[1]) & _MASK
        x ^= x >> 31
    return x


def uniform(seed: int, epoch: int, indices: Sequence[int], draws: int) -> NDArray[np.float64]:
    """Draw numbers in [0, 1) for the samples of a batch.

    Args:
        seed: the run's seed.
        epoch: the epoch.
        indices: the indices of the samples in the dataset, length `n`.
        draws: how many numbers each sample needs.

    Returns:
        An array of shape `(n, draws)`; a row depends on its own sample's index alone.
    """
    key = np.uint64(hash_counter(seed, epoch))
    samples = _mix(np.asarray(indices, np.uint64) * np.uint64(_GOLDEN) + key)
    counters = np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mix(samples[:, None] + counters)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed_global_generators(seed: int) -> None:
    """Seed the global generators of torch (CPU), NumPy and Python, in about 10 µs.

    `torch.manual_seed` also visits every accelerator and takes ten times as long, too much per sample.
    """
    torch.default_generator.manual_seed(seed & (_MASK >> 1))
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Give torch (CPU), NumPy and Python back the random state that they had on entry."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
