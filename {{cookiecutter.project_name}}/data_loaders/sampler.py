"""The order in which samples are seen, and the batches that it makes."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from data_loaders.randomness import hash_counter


class EpochSampler(Sampler[list[int]]):
    """Batches of sample indices, in an order that is a function of the seed and the epoch alone.

    So an epoch can be entered at any batch: the batches before it are skipped as numbers and never loaded.
    A shuffled epoch costs 8 bytes of memory per sample (its permutation).
    """

    def __init__(self, num_samples: int, batch_size: int, *, seed: int, shuffle: bool) -> None:
        """Plan epochs over `num_samples` samples; the last batch of an epoch may be shorter.

        Args:
            num_samples: samples in the dataset.
            batch_size: samples per batch.
            seed: the run's seed.
            shuffle: a new order every epoch; otherwise the order of the dataset.
        """
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.set_position(epoch=0)

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin at a batch (counted from 0) of an epoch (counted from 0)."""
        self.epoch, self.start = epoch, batch
        self._order: torch.Tensor | None = None

    def batch(self, number: int) -> list[int]:
        """Return the sample indices of one batch of the current epoch."""
        if self._order is None:
            self._order = self._permutation()
        begin = number * self.batch_size
        indices: list[int] = self._order[begin : begin + self.batch_size].tolist()
        return indices

    def _permutation(self) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.num_samples)
        generator = torch.Generator().manual_seed(hash_counter(self.seed, self.epoch) >> 1)
        return torch.randperm(self.num_samples, generator=generator)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the epoch's batches from the position that was set."""
        for number in range(self.start, len(self)):
            yield self.batch(number)

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return -(-self.num_samples // self.batch_size)
