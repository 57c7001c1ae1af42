"""Batches: the same in every process, with any number of workers, from any position."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from data_loaders.randomness import uniform
from trainer.build import build_trainer
from utils.config import Config
from utils.errors import ConfigError

Batches = list[list[torch.Tensor]]


class Noisy(Dataset[tuple[int, float, float, float]]):
    """Ten samples that draw from every global generator, as transforms of all libraries do."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, float(torch.rand(())), float(np.random.rand()), random.random()


class Told(Dataset[int]):
    """A dataset that wants to know the epoch."""

    epoch = -1

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return 100 * self.epoch + index

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class NoisyInMemory(InMemoryDataset):
    """Adds noise to whole batches."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, ...]:
        (values,) = super().__getitems__(indices)
        return values, torch.from_numpy(uniform(self.seed, self.epoch, indices, draws=2))


@pytest.fixture(params=["in memory", "sample by sample"])
def noisy(request: pytest.FixtureRequest) -> Callable[..., Loader]:
    """Makes loaders of random data of both kinds."""

    def make(seed: int = 1) -> Loader:
        in_memory = request.param == "in memory"
        dataset: Dataset[Any] = NoisyInMemory(torch.arange(10), seed=seed) if in_memory else Noisy()
        return Loader(dataset, 4, seed=seed, shuffle=True)

    return make


@pytest.fixture
def workers() -> Iterator[Loader]:
    """A loader with two worker processes."""
    loader = Loader(Noisy(), 4, seed=1, shuffle=True, num_workers=2)
    yield loader
    loader.close()


def epoch(loader: Loader, number: int, batch: int = 0) -> Batches:
    loader.set_position(number, batch)
    return list(loader)


def same(first: Batches, second: Batches) -> bool:
    return str(first) == str(second) and len(first) > 0


def test_batches_are_a_function_of_seed_and_epoch(noisy: Callable[..., Loader]) -> None:
    loader = noisy()
    batches = epoch(loader, 3)
    assert sorted(int(index) for columns in batches for index in columns[0]) == list(range(10))
    assert not same(epoch(loader, 4), batches)
    assert same(epoch(loader, 3), batches)
    assert same(epoch(noisy(), 3), batches)
    assert not same(epoch(noisy(seed=2), 3), batches)


def test_the_randomness_of_a_sample_changes_with_seed_epoch_and_index(noisy: Callable[..., Loader]) -> None:
    def noise(seed: int, epoch: int, index: int) -> str:
        loader = noisy(seed)
        loader.set_position(epoch)
        return str(loader.load([index])[1:])

    assert len({noise(seed, epoch, index) for seed in (1, 2) for epoch in (0, 1) for index in (3, 4)}) == 8


@pytest.mark.parametrize("batch", [1, 2])
def test_an_epoch_can_be_entered_at_any_batch(noisy: Callable[..., Loader], batch: int) -> None:
    assert same(epoch(noisy(), 2, batch), epoch(noisy(), 2)[batch:])


def test_a_sample_does_not_depend_on_those_beside_it(noisy: Callable[..., Loader]) -> None:
    loader = noisy()
    loader.set_position(2)
    together, alone = loader.load([3, 7, 5]), loader.load([7])
    assert all(torch.equal(column[1:2], single) for column, single in zip(together, alone, strict=True))


def test_one_batch_can_be_loaded_apart_from_an_iteration(noisy: Callable[..., Loader]) -> None:
    loader = noisy()
    batches = epoch(loader, 5)
    assert same([loader.load(loader.batch_sampler.batch(1))], batches[1:2])


def test_skipped_batches_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loader, loaded = Loader(Noisy(), 4), []

    def load(self: Noisy, index: int) -> int:
        loaded.append(index)
        return index

    monkeypatch.setattr(Noisy, "__getitem__", load)
    epoch(loader, 0, batch=1)
    assert loaded == [4, 5, 6, 7, 8, 9]


def test_workers_change_nothing(workers: Loader) -> None:
    plain = Loader(Noisy(), 4, seed=1, shuffle=True)
    for number, batch in [(0, 0), (1, 0), (1, 2), (0, 1)]:  # workers live on from epoch to epoch
        assert same(epoch(workers, number, batch), epoch(plain, number, batch))


def test_workers_are_there_and_end_when_the_loader_is_closed(workers: Loader) -> None:
    epoch(workers, 0)
    processes = workers._iterator._workers  # type: ignore[union-attr]
    assert [process.is_alive() for process in processes] == [True, True]
    workers.close()
    assert [process.is_alive() for process in processes] == [False, False]


def test_data_in_memory_needs_no_workers() -> None:
    assert Loader(InMemoryDataset(torch.arange(4)), 2, num_workers=2).num_workers == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_generators_are_left_alone(num_workers: int) -> None:
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    loader = Loader(Noisy(), 4, shuffle=True, num_workers=num_workers)
    epoch(loader, 0)
    loader.close()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == str(numpy_state)
    assert random.getstate() == python_state


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_that_wants_to_know_the_epoch_is_told(num_workers: int) -> None:
    loader = Loader(Told(), 4, num_workers=num_workers)
    assert [epoch(loader, number)[0].tolist()[0] for number in (0, 2)] == [0, 200]  # type: ignore[attr-defined]
    loader.close()


def test_samples_are_put_together_by_the_function_that_was_given() -> None:
    assert epoch(Loader(Told(), 2, collate_fn=tuple), 1) == [(100, 101), (102, 103)]  # type: ignore[comparison-overlap]


def test_tensors_of_different_lengths_are_no_dataset() -> None:
    with pytest.raises(ValueError, match="samples do not make a dataset"):
        InMemoryDataset(torch.zeros(3), torch.zeros(4))


def test_random_numbers_are_uniform_and_each_has_its_own() -> None:
    numbers = uniform(seed=1, epoch=2, indices=range(5000), draws=4)
    assert numbers.shape == (5000, 4)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert len(np.unique(numbers)) == numbers.size
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert abs(counts - 2000).max() < 210  # five standard deviations
    assert abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.07


@pytest.mark.parametrize("empty", ["training", "validation"])
def test_a_split_without_samples_is_named(config: Config, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    sizes = {split: 0 if split == empty else 100 for split in ("training", "validation", "test")}
    train, valid, test = (Loader(InMemoryDataset(torch.zeros(size, 1)), 8, seed=1) for size in sizes.values())
    loaders = Loaders(train, valid, test)
    monkeypatch.setattr("trainer.build.build", lambda *_args, **_named: loaders)
    with pytest.raises(ConfigError, match=f"data_loader: there are no samples for {empty}"):
        build_trainer(config)
