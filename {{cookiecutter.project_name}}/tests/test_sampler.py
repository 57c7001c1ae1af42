"""The order of samples: a function of the seed and the epoch, which can be entered anywhere."""

import itertools

import pytest
import torch

from data_loaders.sampler import EpochSampler


def epoch(sampler: EpochSampler, number: int, batch: int = 0) -> list[list[int]]:
    sampler.set_position(number, batch)
    return list(sampler)


def shuffled(seed: int = 1, batch_size: int = 4, samples: int = 10) -> EpochSampler:
    return EpochSampler(samples, batch_size, seed=seed, shuffle=True)


@pytest.mark.parametrize(("samples", "batch_size"), [(10, 4), (12, 4), (3, 4), (1, 1), (100, 7)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_each_sample_once_in_batches_of_the_size_asked_for(
    samples: int, batch_size: int, shuffle: bool
) -> None:
    sampler = EpochSampler(samples, batch_size, seed=1, shuffle=shuffle)
    batches = epoch(sampler, 0)
    assert sorted(itertools.chain(*batches)) == list(range(samples))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size
    assert len(sampler) == len(batches)


def test_without_shuffling_the_order_is_that_of_the_dataset() -> None:
    sampler = EpochSampler(5, 2, seed=1, shuffle=False)
    assert epoch(sampler, 0) == epoch(sampler, 7) == [[0, 1], [2, 3], [4]]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {(seed, number): epoch(shuffled(seed), number) for seed in range(3) for number in range(3)}
    assert all(epoch(shuffled(seed), number) == order for (seed, number), order in orders.items())
    assert len({str(order) for order in orders.values()}) == 9


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    small, large = epoch(shuffled(batch_size=3), 2), epoch(shuffled(batch_size=5), 2)
    assert list(itertools.chain(*small)) == list(itertools.chain(*large))


def test_the_order_does_not_depend_on_what_was_iterated_before() -> None:
    used, fresh = shuffled(), shuffled()
    epoch(used, 0)
    next(iter(used))
    assert epoch(used, 3) == epoch(fresh, 3)


@pytest.mark.parametrize("batch", [0, 1, 2, 3])
def test_an_epoch_can_be_entered_at_any_batch(batch: int) -> None:
    assert epoch(shuffled(), 5, batch) == epoch(shuffled(), 5)[batch:]


def test_a_batch_can_be_looked_up_by_its_number() -> None:
    sampler = shuffled()
    assert [sampler.batch(number) for number in range(len(sampler))] == epoch(sampler, 0)


def test_shuffling_is_fair() -> None:
    """Each of 4 samples should be first in about a quarter of 2000 epochs; 100 are five standard deviations."""
    sampler = shuffled(samples=4, batch_size=1)
    firsts = torch.tensor([epoch(sampler, number)[0][0] for number in range(2000)])
    assert (firsts.bincount(minlength=4) - 500).abs().max() < 100


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    epoch(shuffled(), 0)
    assert torch.equal(torch.get_rng_state(), state)
