"""A DataLoader that can start an epoch at any batch, and the three of them that a run needs."""

import atexit
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from data_loaders.dataset import BatchDataset, InMemoryDataset, SeededDataset
from data_loaders.sampler import EpochSampler, Share
from utils.errors import UserError


def _take_as_is(batch: Any) -> Any:
    return batch


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _ignore_signals(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which stops its workers when its own step is done."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_waiting() -> Iterator[None]:
    """Keep signals waiting while workers start; they inherit this, and so are deaf before they can say so."""
    if os.name == "nt":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_their_words(batches: Iterator[Any]) -> Iterator[Any]:
    """Free a message for the user from the traceback of the worker in which it was raised."""
    try:
        yield from batches
    except UserError as error:
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def _close_if_alive(reference: "weakref.ref[Loader]") -> None:
    loader = reference()
    if loader is not None:
        loader.close()


class Loader(DataLoader[Any]):
    """Batches of one split of the data.

    `set_position(epoch, batch)` says where the next iteration begins. The order of samples and all random
    augmentation are functions of the seed, the epoch and the sample's index, whatever the number of workers.
    """

    batch_sampler: EpochSampler
    dataset: BatchDataset | SeededDataset

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int = 64,
        *,
        seed: int = 0,
        shuffle: bool = False,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        sampler: EpochSampler | None = None,
    ) -> None:
        """Make a loader.

        Args:
            dataset: a `BatchDataset`, such as an `InMemoryDataset`, or any with `__len__` and `__getitem__`.
            batch_size: samples per batch.
            seed: the run's seed.
            shuffle: a new order every epoch (training), or the order of the dataset (evaluation).
            num_workers: processes that load samples ahead; data in memory needs none and uses none.
            collate_fn: puts a list of samples together into a batch; a `BatchDataset` has done so itself.
            sampler: the order and the batches, in place of `batch_size` and `shuffle`.
        """
        workers = 0 if isinstance(dataset, InMemoryDataset) else num_workers
        in_batches = isinstance(dataset, BatchDataset)
        super().__init__(
            dataset if in_batches else SeededDataset(dataset, seed, collate_fn or default_collate),
            batch_sampler=sampler or EpochSampler(len(dataset), batch_size, seed=seed, shuffle=shuffle),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_take_as_is,  # both kinds of datasets return whole batches
            # Without a generator of its own, every iteration would draw a number from the global one.
            generator=torch.Generator(),
            worker_init_fn=_ignore_signals,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin at a batch (counted from 0) of an epoch (counted from 0)."""
        self.batch_sampler.set_position(epoch, batch)
        self.dataset.set_epoch(epoch)

    def set_share(self, rank: int, processes: int) -> None:
        """Take only the share of each batch that falls to process `rank` of `processes`."""
        self.batch_sampler.set_share(rank, processes)

    def share(self, number: int) -> Share:
        """Return how many samples of a batch are this process's."""
        return self.batch_sampler.share(number)

    def __iter__(self) -> Any:
        """Iterate over the epoch's batches from the position that was set."""
        if self.num_workers == 0 and not self.pin_memory:
            return self._in_this_process()
        first_time = self.num_workers > 0 and self._iterator is None
        with _signals_waiting():
            iterator = super().__iter__()
        if first_time:
            # Python ends idle workers at exit by SIGTERM, which they ignore, and would wait for them forever.
            atexit.register(_close_if_alive, weakref.ref(self))
        return _in_their_words(iterator) if self.num_workers > 0 else iterator

    def _in_this_process(self) -> Iterator[Any]:
        """Do what DataLoader's own iterator would, in half the time that a small batch in memory takes it."""
        for indices in self.batch_sampler:
            yield self.dataset.__getitems__(indices)

    def close(self) -> None:
        """End the workers, if there are any; done by itself when Python exits."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None

    @property
    def num_samples(self) -> int:
        """Samples in an epoch."""
        return self.batch_sampler.num_samples

    def load(self, indices: list[int]) -> Any:
        """Load one batch here and now, in this process and apart from any iteration."""
        return self.dataset.__getitems__(indices)

    def load_batch(self, number: int) -> tuple[Any, list[int]]:
        """Load a batch of the current epoch by its number, here and now.

        Returns:
            The batch, and the indices of its samples.
        """
        indices = self.batch_sampler.batch(number)
        return self.load(indices), indices

    def state_dict(self) -> dict[str, Any]:
        """Return what, besides epoch and batch, finds the place again: nothing, where any batch can be computed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state over."""


@dataclass
class Loaders:
    """The three splits of a run's data; `test` is read by `test.py` alone.

    Attributes:
        train: what is learned from.
        valid: what decides about the best checkpoint and early stopping.
        test: what is measured in the end.
        statistics: means, standard deviations and the like of the training split, for a model with buffers of the
            same names. They travel in its checkpoints.
        class_names: what the classes are called, for pictures; empty where they have numbers only.
    """

    train: Loader
    valid: Loader
    test: Loader
    statistics: dict[str, torch.Tensor] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
