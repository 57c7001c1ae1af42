"""From sample indices to batches: datasets that return whole batches, and a wrapper for all others."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from data_loaders.randomness import global_generators_kept, hash_counter, seed_global_generators


class BatchDataset(Dataset[Any]):
    """A dataset that loads a whole batch at once; subclass it where that is faster than sample by sample.

    Override `__len__` and `__getitems__`. PyTorch calls `__getitems__`, where a dataset has it, with all indices of a
    batch, and `__getitem__` with one; its collate function, which makes a batch of samples, has nothing left to do.
    """

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next batches belong to; of use to augmentation alone."""

    def __len__(self) -> int:
        """Return the number of samples; a sampler hands out indices below it."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """Return one sample, as it stands in a batch."""
        return tuple(column[0] for column in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch."""
        raise NotImplementedError


class InMemoryDataset(BatchDataset):
    """Tensors in memory: a batch is one index operation on each, not one call per sample.

    Subclass it and override `__getitems__` to augment whole batches; draw the random numbers for that from
    `data_loaders.randomness.uniform(self.seed, self.epoch, indices, …)`.
    """

    def __init__(self, *tensors: torch.Tensor, seed: int = 0) -> None:
        """Hold tensors whose first dimension counts the samples.

        Raises:
            ValueError: the tensors differ in their number of samples.
        """
        if len({len(tensor) for tensor in tensors}) != 1:
            raise ValueError(f"tensors of {[len(tensor) for tensor in tensors]} samples do not make a dataset")
        self.tensors = tensors
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next batches belong to."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.tensors[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return a batch: each tensor's rows at `indices`."""
        rows = torch.from_numpy(np.asarray(indices, np.int64))  # of a list, NumPy takes a quarter of torch's time
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)


class SeededDataset(Dataset[Any]):
    """Any map-style dataset, with its randomness made a function of (seed, epoch, index).

    Before each sample the global generators of torch, NumPy and Python are seeded from those three, so that
    transforms may draw from any of them and still give the same sample in every process, with any number of
    workers and after a resume. A collate function that draws goes on with the numbers of the batch's last sample.
    In the main process the generators get their own state back afterwards.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, collate: Callable[[list[Any]], Any] = default_collate) -> None:
        """Wrap `dataset`; `seed` is the run's seed, `collate` puts samples together into a batch."""
        self.wrapped = dataset
        self.seed = seed
        self.collate = collate
        # Shared memory, because workers that live through several epochs hold a copy of everything else.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next samples belong to; a `set_epoch` of the wrapped dataset is told too."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.wrapped)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """Return one sample, as it comes before it is put into a batch."""
        return self._load([index], lambda samples: samples[0])

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch."""
        return self._load(indices, self.collate)

    def _load(self, indices: Sequence[int], collate: Callable[[list[Any]], Any]) -> Any:
        epoch = int(self.epoch)
        set_epoch = getattr(self.wrapped, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        samples = []
        # A worker has no other use for its generators.
        with nullcontext() if get_worker_info() else global_generators_kept():
            for index in indices:
                seed_global_generators(hash_counter(self.seed, epoch, index))
                samples.append(self.wrapped[index])
            return collate(samples)
