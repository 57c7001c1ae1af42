"""1,024 processes and a thousand million samples, without a cluster: what each process would take, step by step.

What is shown here, and how:

- In a step, the shares of all processes are disjoint, and together they are the batch of a single process. All 1,024
  shares are computed, for steps all over an epoch; and each by a sampler that has done nothing else, for some of them.
- An epoch has each sample once. The order is a chain of mappings each of which can be undone, so no two places can have
  the same sample. Here that is done: from the sample to its place and back, for a million of each, at all lengths up
  to some hundreds for every place there is, and in `make soak` for all thousand million.
- It costs a process no more memory than a chunk of the order, however large the set.
"""

from __future__ import annotations

import itertools
import os
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from baking import SOURCE
from numpy.typing import NDArray

if str(SOURCE) not in sys.path:
    sys.path.insert(0, str(SOURCE))  # the template folder is a working project

from data_loaders import sampler as sampler_file
from data_loaders.permutation import ROUNDS, permuted
from data_loaders.randomness import hash_counter
from data_loaders.sampler import CHUNK, EpochSampler, LengthGroupedSampler, WeightedSampler

SAMPLES, PROCESSES, EPOCH = 10**9, 1024, 7
ODD = 2111  # a batch that is no multiple of the processes; the last one of an epoch then has 301 samples, too few
LARGE, SMALL = 1 << 20, 1 << 14

KINDS: dict[str, Callable[[], EpochSampler]] = {
    "shuffled": lambda: EpochSampler(SAMPLES, 2048, seed=1, shuffle=True),
    "odd": lambda: EpochSampler(SAMPLES, ODD, seed=1, shuffle=True),
    "sequential": lambda: EpochSampler(SAMPLES, ODD),
    # These need some bytes for each sample, of its weight or length, and are shown on fewer of them.
    "weighted": lambda: WeightedSampler(np.arange(SMALL) % 10, ODD, seed=1),
    "grouped": lambda: LengthGroupedSampler(np.arange(LARGE) % 1009, ODD, seed=1, shuffle=True, pool=8),
}


def alone(kind: str, step: int, rank: int, processes: int) -> list[int]:
    """Return what a process takes in a step that it begins with, by a sampler that knows nothing of any other."""
    sampler = KINDS[kind]()
    sampler.set_share(rank, processes)
    sampler.set_position(EPOCH, step)
    return next(iter(sampler))


def shares(sampler: EpochSampler, step: int) -> list[list[int]]:
    """Return what each of 1,024 processes takes in a step, without the samples that only stand in for one."""
    sampler.set_position(EPOCH, step)
    found = []
    for rank in range(PROCESSES):
        sampler.set_share(rank, PROCESSES)
        found.append(next(iter(sampler))[: sampler.share(step).own])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_of_a_step_are_disjoint_and_make_up_the_batch_of_one_process(kind: str) -> None:
    sampler = KINDS[kind]()
    last = len(sampler) - 1
    for step in (0, last // 3, last - 1, last):
        batch = alone(kind, step, 0, 1)
        parts = shares(sampler, step)
        taken = list(itertools.chain(*parts))
        assert sorted(taken) == sorted(batch)
        assert len(set(taken)) == len(taken) or kind == "weighted", "drawn with replacement, there a sample may recur"
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for rank in (0, 1, 511, 1023):
            assert alone(kind, step, rank, PROCESSES) == (parts[rank] or batch[:1])


def test_a_batch_may_lie_across_two_chunks_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = alone("odd", 1000, 0, 1)
    monkeypatch.setattr(sampler_file, "CHUNK", ODD + 1)
    assert sorted(itertools.chain(*shares(KINDS["odd"](), 1000))) == sorted(batch)


def test_grouped_by_length_an_epoch_has_each_sample_once() -> None:
    sampler = KINDS["grouped"]()
    sampler.set_position(EPOCH)
    assert (np.bincount(np.concatenate(list(sampler)), minlength=LARGE) == 1).all()


def place_of(samples: NDArray[np.int64], length: int, key: int) -> NDArray[np.int64]:
    """Undo `permuted`: the rounds in reverse, and on until the number lies within the range."""
    half = max(1, (int(length - 1).bit_length() + 1) // 2)
    width, mask, rest = np.uint64(half), np.uint64((1 << half) - 1), np.uint64(64 - half)
    numbers = samples.astype(np.uint64)
    outside = np.arange(len(numbers))
    while outside.size:
        left, right = numbers[outside] >> width, numbers[outside] & mask
        for number in reversed(range(ROUNDS)):
            mixed = (left ^ np.uint64(hash_counter(key, number))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
            left, right = right ^ (mixed >> rest), left
        numbers[outside] = (left << width) | right
        outside = outside[numbers[outside] >= length]
    return numbers.astype(np.int64)


def test_each_sample_of_a_thousand_million_has_one_place_and_each_place_one_sample() -> None:
    key = hash_counter(1, EPOCH)
    numbers = np.random.default_rng(0).integers(0, SAMPLES, 10**6)
    numbers[:6] = 0, 1, CHUNK - 1, CHUNK, SAMPLES - 2, SAMPLES - 1
    assert (place_of(permuted(numbers, SAMPLES, key), SAMPLES, key) == numbers).all()
    assert (permuted(place_of(numbers, SAMPLES, key), SAMPLES, key) == numbers).all()
    sampler = EpochSampler(SAMPLES, ODD, seed=1, shuffle=True)
    sampler.set_position(EPOCH)
    assert (sampler.order(SAMPLES - 5, SAMPLES) == permuted(np.arange(SAMPLES - 5, SAMPLES), SAMPLES, key)).all()


def test_an_order_of_any_length_has_each_sample_once() -> None:
    for length in [*range(1, 300), *(2**power + more for power in range(9, 17) for more in (-1, 0, 1))]:
        order = permuted(np.arange(length), length, key=length)
        assert (np.bincount(order, minlength=length) == 1).all()
        assert (place_of(order, length, key=length) == np.arange(length)).all()


@pytest.mark.parametrize("kind", ["odd", "sequential"])
def test_a_process_needs_no_more_memory_than_a_chunk_of_the_order_takes(kind: str) -> None:
    tracemalloc.start()
    for step in (0, 200_000, 400_000):
        alone(kind, step, PROCESSES - 1, PROCESSES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 8 * CHUNK  # the chunk, and what is computed on the way to it: 8 MB


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="takes minutes and a gigabyte: make soak")
def test_an_epoch_at_length_has_each_of_a_thousand_million_samples_once() -> None:
    sampler = EpochSampler(SAMPLES, ODD, seed=1, shuffle=True)
    sampler.set_position(EPOCH)
    seen = np.zeros(SAMPLES, np.bool_)
    for begin in range(0, SAMPLES, CHUNK):
        seen[sampler.order(begin, min(begin + CHUNK, SAMPLES))] = True
    assert seen.all(), "as many places as samples, so each that was seen was seen once"
