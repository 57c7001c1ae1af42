"""The order in which samples are seen, and the batches that it makes.

All samplers here are functions of the seed and the epoch: batch 17 of epoch 3 can be asked for directly. So an epoch
can be entered at any batch (the batches before it are skipped as numbers and never loaded), and several processes
that share the work agree without a word who takes what.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from data_loaders.permutation import permuted
from data_loaders.randomness import hash_counter, uniform

# Up to so many samples an order is drawn by torch and kept; beyond, it is computed a chunk at a time.
TABLE, CHUNK = 1 << 18, 1 << 16

# Keeps what a sampler draws apart from what augmentation draws for a sample of the same number.
_DRAWS, _BATCHES = 1, 2


class Share(NamedTuple):
    """How many samples of a batch a process has.

    Attributes:
        own: those of this process.
        smallest: those that every process has at least.
    """

    own: int
    smallest: int


class EpochSampler(Sampler[list[int]]):
    """Each sample once in an epoch: in the order of the dataset, or in a new random order every epoch.

    Memory: the order of a set of up to 262,144 samples, 8 bytes for each; of a larger one a chunk of 65,536
    (half a megabyte), however many there are.
    """

    def __init__(self, num_samples: int, batch_size: int, *, seed: int = 0, shuffle: bool = False) -> None:
        """Plan epochs over `num_samples` samples; the last batch of an epoch may be shorter.

        Args:
            num_samples: samples in an epoch.
            batch_size: samples per batch, of all processes together.
            seed: the run's seed.
            shuffle: a new order every epoch; otherwise the order of the dataset.
        """
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank, self.processes = 0, 1
        self.set_position(epoch=0)

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin at a batch (counted from 0) of an epoch (counted from 0)."""
        self.epoch, self.start = epoch, batch
        self._chunk: tuple[int, NDArray[np.int64]] | None = None

    def set_share(self, rank: int, processes: int) -> None:
        """Take only the share of each batch that falls to process `rank` of `processes`.

        The batches themselves stay the same for any number of processes. Where the last batch of an epoch has fewer
        samples than there are processes, those that go away empty-handed get its first one, to stand in: they have
        to take part in the step, but their share counts nothing.
        """
        self.rank, self.processes = rank, processes

    def share(self, number: int) -> Share:
        """Return how many samples of a batch are this process's."""
        size = min(self.batch_size, self.num_samples - number * self.batch_size)
        return Share(len(range(self.rank, size, self.processes)), size // self.processes)

    def batch(self, number: int) -> list[int]:
        """Return the sample indices of one whole batch of the current epoch."""
        begin = number * self.batch_size
        indices: list[int] = self.order(begin, min(begin + self.batch_size, self.num_samples)).tolist()
        return indices

    def order(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return which samples stand at the places `begin` to `end - 1` of the current epoch."""
        if not self.shuffle:
            return np.arange(begin, end)
        size = CHUNK if self.num_samples > TABLE else max(1, self.num_samples)
        parts = []
        while begin < end:
            first = begin - begin % size
            if self._chunk is None or self._chunk[0] != first:
                self._chunk = first, self._shuffled(first, min(first + size, self.num_samples))
            parts.append(self._chunk[1][begin - first : end - first])
            begin = first + size
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def _shuffled(self, begin: int, end: int) -> NDArray[np.int64]:
        key = hash_counter(self.seed, self.epoch)
        if self.num_samples > TABLE:
            return permuted(np.arange(begin, end), self.num_samples, key)
        table: NDArray[np.int64] = torch.randperm(
            self.num_samples, generator=torch.Generator().manual_seed(key >> 1)
        ).numpy()
        return table[begin:end]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the epoch's batches from the position that was set, or this process's share of each."""
        for number in range(self.start, len(self)):
            batch = self.batch(number)
            yield batch[self.rank :: self.processes] or batch[:1]

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return -(-self.num_samples // self.batch_size)


class WeightedSampler(EpochSampler):
    """Draws with replacement, each sample with a probability in proportion to its weight.

    With `balanced_weights` every class is seen equally often, however rare it is. Memory: 8 bytes per sample.
    """

    def __init__(self, weights: ArrayLike, batch_size: int, *, seed: int = 0, num_samples: int | None = None) -> None:
        """Plan epochs of draws.

        Args:
            weights: one number per sample of the dataset, 0 or more.
            batch_size: samples per batch, of all processes together.
            seed: the run's seed.
            num_samples: draws in an epoch; by default as many as there are samples.

        Raises:
            ValueError: a weight is negative or not finite, or all are 0.
        """
        values = np.asarray(weights, np.float64)
        if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
            raise ValueError("weights of samples have to be finite, 0 or more, and not all 0")
        self._cumulated = np.cumsum(values)
        self._last = int(np.flatnonzero(values)[-1])
        super().__init__(len(values) if num_samples is None else num_samples, batch_size, seed=seed, shuffle=True)

    def order(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return the samples that are drawn at the places `begin` to `end - 1` of the current epoch."""
        draws = uniform(hash_counter(self.seed, _DRAWS), self.epoch, range(begin, end), draws=1)[:, 0]
        found = np.searchsorted(self._cumulated, draws * self._cumulated[-1], side="right")
        indices: NDArray[np.int64] = np.minimum(found, self._last)
        return indices


def balanced_weights(labels: ArrayLike) -> NDArray[np.float64]:
    """Weigh each sample by one over the size of its class, so that all classes are drawn equally often."""
    _, classes, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1.0 / counts[classes.reshape(-1)]
    return weights


class LengthGroupedSampler(EpochSampler):
    """Puts samples of similar length together, so that padding to the longest of a batch costs little.

    The epoch's order is cut into pools of `pool` batches; within a pool the samples are sorted by length, and the
    batches that this makes are shuffled. Memory: 4 bytes per sample for the lengths, besides the order.
    """

    def __init__(
        self, lengths: ArrayLike, batch_size: int, *, seed: int = 0, shuffle: bool = False, pool: int = 32
    ) -> None:
        """Plan epochs.

        Args:
            lengths: the length of each sample of the dataset.
            batch_size: samples per batch, of all processes together.
            seed: the run's seed.
            shuffle: a new order every epoch; otherwise always the same batches, shorter samples first in each pool.
            pool: batches that are sorted together. More save more padding, and mix less.
        """
        self.lengths = np.asarray(lengths, np.int32)
        self.pool = pool
        super().__init__(len(self.lengths), batch_size, seed=seed, shuffle=shuffle)

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin at a batch (counted from 0) of an epoch (counted from 0)."""
        super().set_position(epoch, batch)
        self._pool: tuple[int, list[list[int]]] | None = None

    def batch(self, number: int) -> list[int]:
        """Return the sample indices of one whole batch of the current epoch."""
        pool = number // self.pool
        if self._pool is None or self._pool[0] != pool:
            self._pool = pool, self._batches(pool)
        return self._pool[1][number % self.pool]

    def _batches(self, pool: int) -> list[list[int]]:
        size = self.pool * self.batch_size
        indices = self.order(pool * size, min((pool + 1) * size, self.num_samples))
        indices = indices[np.argsort(self.lengths[indices], kind="stable")]
        batches = [indices[i : i + self.batch_size].tolist() for i in range(0, len(indices), self.batch_size)]
        if self.shuffle:
            # An incomplete batch stays the last of its pool, so that only the epoch's last one is short.
            whole = len(indices) // self.batch_size
            key = hash_counter(self.seed, self.epoch, _BATCHES, pool)
            batches[:whole] = [batches[i] for i in permuted(np.arange(whole), whole, key)] if whole else []
        return batches


def sampler_for(name: str, labels: Any, batch_size: int, *, seed: int) -> EpochSampler:
    """Make the training sampler that a config names.

    Args:
        name: `shuffled`, `sequential`, or `weighted` (every class equally often).
        labels: the class of each training sample.
        batch_size: samples per batch.
        seed: the run's seed.
    """
    if name == "weighted":
        return WeightedSampler(balanced_weights(labels), batch_size, seed=seed)
    return EpochSampler(len(labels), batch_size, seed=seed, shuffle=name == "shuffled")
