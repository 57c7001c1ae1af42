"""A random order of any number of samples that takes no memory: each place of it is computed when asked for."""

import numpy as np
from numpy.typing import NDArray

from data_loaders.randomness import hash_counter

ROUNDS = 12


def permuted(places: NDArray[np.int64], length: int, key: int) -> NDArray[np.int64]:
    """Return what stands at some places of a random order of `0 … length - 1`.

    A Feistel network, the construction of block ciphers, shuffles the numbers of `2 * half` bits; whoever lands
    outside of the range walks on until it is inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
    2002). Mitchell et al., "Bandwidth-Optimal Random Shuffling for GPUs", 2021, shuffle data in this way.

    Args:
        places: places in the order, each below `length`.
        length: how many numbers are put in order, below 2**62.
        key: another key makes another order.

    Returns:
        For each place a number below `length`; different places have different numbers.
    """
    half = max(1, (int(length - 1).bit_length() + 1) // 2)
    keys = [np.uint64(hash_counter(key, number)) for number in range(ROUNDS)]
    numbers = _shuffle(places.astype(np.uint64), half, keys)
    outside = np.flatnonzero(numbers >= length)
    while outside.size:
        numbers[outside] = _shuffle(numbers[outside], half, keys)
        outside = outside[numbers[outside] >= length]
    return numbers.astype(np.int64)


def _shuffle(numbers: NDArray[np.uint64], half: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """Map the numbers of `2 * half` bits onto themselves, one to one."""
    width, mask, rest = np.uint64(half), np.uint64((1 << half) - 1), np.uint64(64 - half)
    left, right = numbers >> width, numbers & mask
    for key in keys:
        mixed = (right ^ key) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
        left, right = right, left ^ (mixed >> rest)
    return (left << width) | right
