"""The order of samples: a function of the seed and the epoch, which can be entered anywhere."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from data_loaders import sampler as sampler_file
from data_loaders.permutation import permuted
from data_loaders.randomness import hash_counter
from data_loaders.sampler import (
    EpochSampler,
    LengthGroupedSampler,
    WeightedSampler,
    balanced_weights,
)


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


LENGTHS = np.random.default_rng(0).integers(1, 100, 1003)
KINDS: dict[str, Callable[[int], EpochSampler]] = {
    "sequential": lambda seed: EpochSampler(1003, 8, seed=seed),
    "shuffled": lambda seed: EpochSampler(1003, 8, seed=seed, shuffle=True),
    "weighted": lambda seed: WeightedSampler(LENGTHS, 8, seed=seed),
    "grouped": lambda seed: LengthGroupedSampler(LENGTHS, 8, seed=seed, shuffle=True, pool=10),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_entered_anywhere_and_forgets_what_was_before(kind: str) -> None:
    whole = epoch(KINDS[kind](1), 2)
    used = KINDS[kind](1)
    epoch(used, 1)
    for batch in (0, 1, 9, 10, 11, 125):
        assert epoch(used, 2, batch) == whole[batch:]
        assert KINDS[kind](1).batch(batch) == whole[batch] or kind != "sequential"
    assert [len(batch) for batch in whole] == [8] * 125 + [3]
    if kind != "sequential":
        assert len({str(epoch(KINDS[kind](seed), number)) for seed in (1, 2) for number in (0, 1)}) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [2, 3, 16])
def test_processes_share_each_batch_without_duplicates_or_gaps(kind: str, processes: int) -> None:
    """The batches are those of one process, of 3 samples in the end: less than one for each of 16."""
    whole = epoch(KINDS[kind](1), 2)
    shares = []
    for rank in range(processes):
        sampler = KINDS[kind](1)
        sampler.set_share(rank, processes)
        shares.append(epoch(sampler, 2))
    for number, (batch, *parts) in enumerate(zip(whole, *shares, strict=True)):
        for rank, part in enumerate(parts):
            sampler.set_share(rank, processes)
            own, smallest = sampler.share(number)
            assert smallest == len(batch) // processes
            assert part == batch[:1] if own == 0 else len(part) == own
            del part[own:]
        assert sorted(itertools.chain(*parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 65, 1000])
def test_a_computed_order_has_each_number_once(length: int) -> None:
    order = permuted(np.arange(length), length, key=5)
    assert sorted(order) == list(range(length))
    assert length < 3 or any((permuted(np.arange(length), length, key=other) != order).any() for other in range(4))


def test_a_computed_order_is_fair() -> None:
    """All 24 orders of 4 samples, about equally often: a chi-squared of 23 degrees is above 56 once in 10,000 times."""
    orders = [tuple(permuted(np.arange(4), 4, key)) for key in range(4800)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 56


def test_numbers_hash_to_the_outputs_of_splitmix64() -> None:
    """The first outputs of its generator from the seeds 0 and 1234567 (Vigna's reference implementation)."""
    assert hash_counter(0) == 0xE220A8397B1DCDAF
    assert hash_counter(1234567) == 6457827717110365317
    assert hash_counter(2**63, -5) == hash_counter(-(2**63), 2**64 - 5)


def test_a_large_set_is_shuffled_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_file, "TABLE", 100)
    monkeypatch.setattr(sampler_file, "CHUNK", 50)
    whole = list(itertools.chain(*epoch(KINDS["shuffled"](1), 2)))
    assert whole == permuted(np.arange(1003), 1003, hash_counter(1, 2)).tolist()
    assert KINDS["shuffled"](1).order(0, 1003).tolist() != list(range(1003))


def test_a_thousand_million_samples_are_no_burden() -> None:
    sampler = EpochSampler(10**9, 1024, seed=1, shuffle=True)
    sampler.set_position(3, batch=len(sampler) - 2)
    last = list(sampler)
    assert [len(batch) for batch in last] == [1024, 10**9 % 1024]
    assert len(set(itertools.chain(*last))) == 1024 + 10**9 % 1024
    assert sampler._chunk is not None
    assert sampler._chunk[1].nbytes <= 8 * sampler_file.CHUNK


def test_rare_classes_are_drawn_as_often_as_others() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    sampler = WeightedSampler(balanced_weights(labels), 100, seed=1, num_samples=30_000)
    drawn = np.bincount(labels[list(itertools.chain(*epoch(sampler, 0)))])
    assert (abs(drawn - 10_000) < 400).all()  # five standard deviations


def test_what_weighs_nothing_is_never_drawn() -> None:
    sampler = WeightedSampler([0.0, 1.0, 0.0, 2.0, 0.0], 10, num_samples=1000)
    assert set(itertools.chain(*epoch(sampler, 0))) == {1, 3}
    for bad in ([0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="weights"):
            WeightedSampler(bad, 2)


def test_batches_of_similar_length_need_little_padding() -> None:
    def padding(batches: list[list[int]]) -> float:
        return float(1 - LENGTHS.sum() / sum(len(batch) * LENGTHS[batch].max() for batch in batches))

    shuffled, grouped = epoch(KINDS["shuffled"](1), 0), epoch(KINDS["grouped"](1), 0)
    assert sorted(itertools.chain(*grouped)) == list(range(1003))
    assert padding(grouped) < 0.1 < 0.3 < padding(shuffled)
    first_of_pools = [LENGTHS[batch].max() for batch in grouped[::10]]
    assert first_of_pools != sorted(first_of_pools)  # not always from short to long
