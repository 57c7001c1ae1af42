"""A run that is killed and resumed, anywhere and any number of times, ends with the bits of one that never was."""

from __future__ import annotations

import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from runs import (
    DIGITS,
    HALF,
    KILLED,
    NOISY,
    OTHER_PARTS,
    SCALED,
    WATCHED,
    WORKERS,
    Experiment,
    Lab,
    differences,
    needs_posix,
    shared_lab,
    traces_of,
)

pytestmark = needs_posix


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


def order(epoch: int) -> list[int]:
    """Return the indices of the noisy training samples in the order of an epoch."""
    from data_loaders.sampler import EpochSampler

    sampler = EpochSampler(130, 20, seed=42, shuffle=True)
    sampler.set_position(epoch)
    return [index for batch in sampler for index in batch]


@pytest.mark.parametrize(
    "words",
    [DIGITS, NOISY, WORKERS, OTHER_PARTS, WATCHED, HALF, SCALED],
    ids=["digits", "noisy", "workers", "other parts", "watched", "half", "scaled"],
)
def test_kills_at_random_moments_change_no_bit(lab: Lab, words: list[str], tmp_path: Path) -> None:
    reference = lab.reference(words)
    chance = random.Random(len(words))
    run = Experiment(lab, tmp_path, words)
    # Seven steps to an epoch: three kills in the second epoch, and one in the third.
    assert run.begin(f"step:{chance.randint(9, 11)}:KILL").code == KILLED
    assert run.resume(f"batch:{chance.randint(1, 2)}:KILL").code == KILLED
    assert run.resume(f"io:{chance.randint(1, 20)}:KILL").code == KILLED
    assert run.resume(f"step:{chance.randint(7, 8)}:KILL").code == KILLED
    result = run.resume()
    assert result.code == 0, result.err
    assert differences(traces_of(run.run), reference.traces) == []


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="compiles for a minute or two: make soak")
@pytest.mark.parametrize("moment", ["batch:7", "end_epoch:1"])  # before a batch of another shape, and an evaluation
def test_a_compiled_run_goes_on_to_the_same_bits(lab: Lab, moment: str, tmp_path: Path) -> None:
    words = [*DIGITS, "trainer.compile=true"]
    reference = lab.reference(words)
    run = Experiment(lab, tmp_path, words)
    assert run.begin(f"{moment}:KILL").code == KILLED
    assert run.resume().code == 0
    assert differences(traces_of(run.run), reference.traces) == []


def test_kills_around_the_end_of_an_epoch_change_no_bit(lab: Lab, tmp_path: Path) -> None:
    """The last checkpoint of the second epoch is from before its last step and its evaluation."""
    reference = lab.reference(DIGITS)
    run = Experiment(lab, tmp_path, DIGITS)
    assert run.begin("evaluation:3:KILL").code == KILLED
    for event in (
        "end_epoch:1",
        "metrics:1",
        "metrics_done:1",
        "open best.pth.tmp:1",
        "write best.pth.tmp:1",
        "fsync best.pth.tmp:1",
        "replace best.pth:1",  # then best.pth is ahead of last.pth
        "replace epoch_0002.pth:1",
        "unlink epoch_0001.pth:1",
    ):
        assert run.resume(f"{event}:KILL").code == KILLED, event
    (run.run / "checkpoints" / "epoch_0099.pth.tmp").touch()
    assert run.resume("evaluation:2:KILL").code == KILLED
    assert run.resume().code == 0
    assert differences(traces_of(run.run), reference.traces) == []
    assert not list(run.run.rglob("*.tmp"))


@pytest.mark.parametrize("event", ["write last.pth.tmp", "replace best.pth", "replace last.pth", "fsync checkpoints"])
def test_a_kill_in_the_very_last_save_changes_no_bit(lab: Lab, event: str, tmp_path: Path) -> None:
    reference = lab.reference(DIGITS)
    run = Experiment(lab, tmp_path, DIGITS)
    assert run.begin(f"{event}:{reference.counts[event]}:KILL").code == KILLED
    assert run.resume().code == 0
    assert differences(traces_of(run.run), reference.traces) == []
    names = {path.name for path in (run.run / "checkpoints").iterdir()}
    assert names == {"last.pth", "best.pth", "epoch_0003.pth"}
    before = traces_of(run.run)
    result = run.resume()
    assert (result.code, differences(traces_of(run.run), before)) == (0, [])
    assert "finished" in result.out


def test_checkpoints_by_the_minute_change_no_bit_either(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(NOISY)
    words = [*NOISY, "trainer.save_every_steps=null", "trainer.save_every_minutes=1e-9"]
    run = Experiment(lab, tmp_path, words)
    assert run.begin("step:11:KILL").code == KILLED
    result = run.resume()
    assert "after step 10" in result.out
    assert differences(traces_of(run.run), reference.traces) == []


def test_the_command_that_people_type_gives_the_same_bits(lab: Lab, tmp_path: Path) -> None:
    """All other tests fork their runs from one process, which saves the time of the imports."""
    reference = lab.reference(DIGITS)
    run = Experiment(lab, tmp_path, DIGITS)
    assert lab.command(*run.arguments(), chaos="step:12:KILL").code == KILLED
    result = run.resume()
    assert result.code == 0, result.err
    assert differences(traces_of(run.run), reference.traces) == []


@pytest.mark.parametrize("words", [NOISY, WORKERS], ids=["no workers", "2 workers"])
def test_what_was_trained_on_is_skipped_by_index_and_not_read_again(lab: Lab, words: list[str], tmp_path: Path) -> None:
    reference = lab.reference(words)
    run = Experiment(lab, tmp_path / "saved", words)
    assert run.begin("step:5:KILL").code == KILLED  # the last checkpoint is of step 4
    reads = tmp_path / "reads"
    assert run.resume(READS=str(reads)).code == 0
    read = [int(line) for line in reads.read_text().split()]
    assert Counter(read) == Counter(order(0)[80:] + order(1) + order(2))
    assert differences(traces_of(run.run), reference.traces) == []


def test_each_sample_is_seen_once_in_every_epoch_in_an_order_of_its_own(lab: Lab) -> None:
    read = lab.reference(NOISY).reads
    # The first batch is looked at before training begins.
    assert read == order(0)[:20] + order(0) + order(1) + order(2)
    assert all(sorted(order(epoch)) == list(range(130)) for epoch in range(3))
    assert all(one != other for one, other in pairwise(map(order, range(3))))
    assert Counter(lab.reference(WORKERS).reads) == Counter(read)


def test_the_number_of_workers_changes_no_bit(lab: Lab) -> None:
    assert differences(lab.reference(WORKERS).traces, lab.reference(NOISY).traces) == []
