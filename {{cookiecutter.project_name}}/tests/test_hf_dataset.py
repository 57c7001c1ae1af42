"""Hugging Face data sets: each sample once, in an order that is known, from any place on, as a whole or as a stream."""

import errno
import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loaders import hf_stream
from data_loaders.hf_loaders import HFLoaders
from data_loaders.hf_rows import Numbers
from data_loaders.hf_source import Source
from data_loaders.loader import Loader
from utils.arguments import check_args
from utils.errors import UserError

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="the extra `datasets` is not installed")

ROWS = 110
Sample = tuple[int, int]


class Copies:
    """A row is as many samples as it says: none, one or two."""

    columns = ["n", "copies"]  # noqa: RUF012 - never changed

    def check(self, schema: Any) -> list[str]:
        return []

    def counts(self, rows: Any) -> Numbers:
        return np.asarray(rows.column("copies"), np.int64)

    def batch(self, rows: Any, parts: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(rows.column("n").to_pylist()), torch.from_numpy(parts)


class Ones(Copies):
    """Each row is a sample."""

    counts = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes into the person's own cache, and all is read in small chunks."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hf_stream, "CHUNK", 7)


@pytest.fixture(params=["parquet", "jsonl", "csv"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Three files of rows that are numbered throughout."""
    return write(tmp_path, request.param)


def write(folder: Path, kind: str) -> str:
    for number, begin in enumerate((0, 30, 80)):
        rows = [{"n": n, "copies": n % 3} for n in range(begin, (30, 80, ROWS)[number])]
        file = folder / f"{number}.{kind}"
        if kind == "parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=10)
        elif kind == "csv":
            file.write_text("\n".join(["n,copies", *(f"{row['n']},{row['copies']}" for row in rows)]), encoding="utf-8")
        else:
            file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder / f"*.{kind}")


def loaders(files: str, converter: Any = None, workers: int = 0, seed: int = 1, **source: Any) -> HFLoaders:
    return HFLoaders(Source(files=files, **source), converter or Copies(), 8, workers, seed)


def streamed(files: str, workers: int = 0, seed: int = 1, **source: Any) -> HFLoaders:
    """50 samples to an epoch, in blocks of 24, 24 and 2."""
    return loaders(files, None, workers, seed, stream={"samples_per_epoch": 50, "buffer": 20}, **source)


def batches(loader: Loader, epoch: int, batch: int = 0) -> list[list[Sample]]:
    loader.set_position(epoch, batch)
    return [list(zip(*(column.tolist() for column in columns), strict=True)) for columns in loader]


def samples(loader: Loader, epoch: int = 0) -> list[Sample]:
    return [sample for batch in batches(loader, epoch) for sample in batch]


ALL = [(n, part) for n in range(ROWS) for part in range(n % 3)]


def test_every_sample_is_in_one_split_once(files: str) -> None:
    whole = loaders(files)
    splits = [samples(loader) for loader in (whole.train, whole.valid, whole.test)]
    assert sorted(chain(*splits)) == ALL
    assert [len(split) for split in splits] == [loader.num_samples for loader in (whole.train, whole.valid, whole.test)]
    assert splits[1] == sorted(splits[1])
    ones = loaders(files, Ones())
    rows = [{n for n, _ in samples(loader)} for loader in (ones.train, ones.valid, ones.test)]
    assert sorted(chain(*rows)) == list(range(ROWS))
    assert all({n for n, _ in split} <= numbers for split, numbers in zip(splits, rows, strict=True))
    assert all(5 <= len(numbers) <= 20 for numbers in rows[1:])  # of 110 rows, 10 % each


def test_of_a_stream_the_same_rows_are_held_back(files: str) -> None:
    whole, stream = loaders(files), streamed(files)
    assert samples(stream.valid) == samples(whole.valid)
    assert samples(stream.test) == samples(whole.test)
    seen = {sample for epoch in range(3) for sample in samples(stream.train, epoch)}
    assert seen == set(samples(whole.train))


def test_splits_of_their_own_are_taken_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, "jsonl")
    files = {split: f"{tmp_path}/{number}.jsonl" for number, split in enumerate(("train", "validation", "test"))}
    for stream in (None, {"samples_per_epoch": 29}):
        source: dict[str, Any] = {"files": files, "valid": "validation", "test": "test", "stream": stream}
        named = HFLoaders(Source.model_validate(source), Copies(), 8, 0, 1)
        found = [sorted(samples(loader)) for loader in (named.train, named.valid, named.test)]
        assert found[1:] == [ALL[30:79], ALL[79:]]
        assert len(found[0]) == 29 if stream else 30


def test_part_of_a_split(tmp_path: Path) -> None:
    half = loaders(write(tmp_path, "parquet"), train="train[:50%]")
    assert sorted(chain(*(samples(loader) for loader in (half.train, half.valid, half.test)))) == ALL[:54]


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    files = write(tmp_path, "parquet")
    for make in (loaders, streamed):
        one = [samples(make(files, seed=seed).train, epoch) for seed in (1, 1, 2) for epoch in (0, 1)]
        assert one[:2] == one[2:4]
        assert len({str(order) for order in one}) == 4


def test_a_stream_that_is_seen_once_in_every_epoch_has_another_order_each_time(tmp_path: Path) -> None:
    files = write(tmp_path, "parquet")
    expected = sorted(samples(loaders(files).train))
    train = loaders(files, stream={"samples_per_epoch": len(expected), "buffer": 1000}).train
    one, other = (samples(train, epoch) for epoch in range(2))
    assert sorted(one) == sorted(other) == expected
    assert one != other


def test_epochs_of_a_stream_follow_one_another_and_it_begins_again_at_its_end(files: str) -> None:
    expected = sorted(samples(loaders(files).train))
    train, read = streamed(files).train, []
    for epoch in range(4):
        order = samples(train, epoch)
        assert order != sorted(order)
        for begin, end in (
            (0, 24),
            (24, 48),
            (48, 50),
        ):  # blocks stay apart: nothing needs more memory than one of them
            read.append(order[begin:end])
    place, endless = 0, expected * 4
    for block in read:
        assert sorted(block) == sorted(endless[place : place + len(block)])
        place += len(block)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_place_is_found_again_in_a_new_process(tmp_path: Path, workers: int) -> None:
    """After each batch of three epochs, that is twice through the data, as a checkpoint would find it."""
    files = write(tmp_path, "parquet" if workers else "csv")
    loader = streamed(files).train
    expected = [batches(streamed(files).train, epoch) for epoch in range(3)]
    for epoch in range(3):
        loader.set_position(epoch)
        for number, _ in enumerate(loader, start=1):
            if number not in (3, 6, 7):
                continue
            state = json.loads(json.dumps(loader.state_dict()))
            again = streamed(files, workers).train
            again.load_state_dict(state)
            where = (epoch, number) if number < 7 else (epoch + 1, 0)
            if where[0] < 3:
                assert batches(again, *where) == expected[where[0]][where[1] :]
                again.set_position(where[0])  # what lies behind can still be looked at
                assert again.load_batch(0)[0][0].tolist() == [n for n, _ in expected[where[0]][0]]
            again.close()


def test_with_workers_the_place_is_that_of_the_batch_which_has_arrived(tmp_path: Path) -> None:
    files = write(tmp_path, "parquet")
    plain, workers = streamed(files).train, streamed(files, 2).train
    workers.load_batch(0)  # as at the start of a run
    for epoch in range(2):
        plain.set_position(epoch)
        workers.set_position(epoch)
        for one, other in zip(plain, workers, strict=True):
            assert [column.tolist() for column in one] == [column.tolist() for column in other]
            assert plain.state_dict() == workers.state_dict()
    workers.close()


def test_what_lies_before_the_place_is_not_read_again(tmp_path: Path) -> None:
    """The first file is destroyed, and the beginning of the second one; the place is at the end of that."""
    from pyarrow import parquet

    files, short = write(tmp_path, "parquet"), {"samples_per_epoch": 30, "buffer": 8}
    loader = loaders(files, stream=short).train
    loader.set_position(2)
    _, expected = (columns[0].tolist() for _, columns in zip(range(2), loader, strict=False))
    again = loaders(files, stream=short).train
    again.load_state_dict(loader.state_dict())
    again.set_position(2, 1)
    groups = parquet.ParquetFile(tmp_path / "1.parquet").metadata
    for name, end in (("0.parquet", 100), ("1.parquet", groups.row_group(1).column(0).data_page_offset)):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:4] + bytes(end) + content[4 + end :])
    assert next(iter(again))[0].tolist() == expected
    with pytest.raises(UserError, match=r"data_loader.args.source: .*\*\.parquet: "):
        batches(again, 0)


def test_processes_share_each_batch_without_duplicates_or_gaps(tmp_path: Path) -> None:
    files = write(tmp_path, "parquet")
    for make in (loaders, streamed):
        alone = batches(make(files).train, 1)
        parts = []
        for rank in range(3):
            one = make(files)
            one.train.set_share(rank, 3)
            parts.append(batches(one.train, 1))
            counts = [one.train.share(number).own for number in range(len(alone))]
            parts[-1] = [batch[:count] for batch, count in zip(parts[-1], counts, strict=True)]
        for batch, shares in zip(alone, zip(*parts, strict=True), strict=True):
            assert sorted(chain(*shares)) == sorted(batch)


@pytest.mark.parametrize("make", [loaders, streamed])
def test_a_worker_gets_the_place_and_not_the_data(tmp_path: Path, make: Callable[[str], HFLoaders]) -> None:
    train = make(write(tmp_path, "parquet")).train
    batches(train, 0)
    travelled = pickle.dumps(train.dataset)
    assert len(travelled) < 20_000
    indices = train.batch_sampler.batch(1)
    one, other = (dataset.__getitems__(indices) for dataset in (train.dataset, pickle.loads(travelled)))
    assert str(one) == str(other)


def test_a_stream_without_samples_is_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1, "copies": 0}\n' * 30, encoding="utf-8")
    with pytest.raises(UserError, match="it holds no samples for train"):
        batches(streamed(f"{tmp_path}/a.jsonl").train, 0)


def test_random_access_reads_the_rows_that_are_wanted(tmp_path: Path) -> None:
    files = write(tmp_path, "parquet")
    rows = loaders(files).train.dataset
    expected = sorted(samples(loaders(files).train))
    for wanted in ([0, 50, 3], list(range(20, 40)), [7]):
        columns = rows.__getitems__(wanted)
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == [expected[index] for index in wanted]
    assert rows[5][0] == expected[5][0]


@pytest.mark.parametrize("make", [loaders, streamed])
def test_data_that_has_changed_is_noticed(tmp_path: Path, make: Callable[[str], HFLoaders]) -> None:
    files = write(tmp_path, "jsonl")
    state = make(files).train.state_dict()
    make(files).train.load_state_dict(state)
    with (tmp_path / "2.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"n": 1, "copies": 1}')
    with pytest.raises(UserError, match="not that with which this run began"):
        make(files).train.load_state_dict(state)


def refused(**source: Any) -> str:
    with pytest.raises(UserError) as error:
        HFLoaders(Source(**source), Copies(), 8, 0, 1)
    return str(error.value)


@pytest.mark.parametrize("stream", [None, {"samples_per_epoch": 10}])
def test_what_is_wrong_with_the_data_is_told_in_words(
    tmp_path: Path, stream: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(name: str, content: str, **source: Any) -> str:
        file = tmp_path / name
        file.write_text(content, encoding="utf-8")
        return refused(files=str(file), stream=stream, **source).removeprefix(f"data_loader.args.source: {file}: ")

    good = '{"n": 1, "copies": 1}\n' * 30
    assert told("a.jsonl", '{"m": 1, "copies": 1}\n').splitlines() == [
        "its columns are m, copies",
        "there is no column n",
    ]
    assert told("b.jsonl", good + '{"n": oops}\n').startswith("JSON parse error")
    assert told("c.jsonl", "") == "it holds no rows"
    assert "Expected 2 fields" in told("d.csv", "n,copies\n1,1\n1,1,1\n")
    assert "Parquet" in told("e.parquet", "no table")
    assert "validation" in told("f.jsonl", good, valid="validation")
    assert "names end in .dat; they should all end in one of .parquet, " in told("g.dat", good)
    assert "there is no file" in refused(files=f"{tmp_path}/*.nothing", stream=stream)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert "source: user/name: Couldn't reach 'user/name' on the Hub" in refused(hub="user/name", stream=stream)
    monkeypatch.setattr("data_loaders.hf_source.find_spec", lambda name: None)
    assert 'python -m pip install -e ".[datasets]"' in refused(hub="user/name", stream=stream)


def test_a_full_disk_is_not_taken_for_a_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(**_: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from error

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(OSError, match="No space left") as error:
        HFLoaders(Source(hub="user/name"), Copies(), 8, 0, 1)
    assert error.value.errno == errno.ENOSPC


def test_mistakes_in_the_source_are_found_with_those_of_the_config() -> None:
    def problems(source: Any) -> list[tuple[str, str]]:
        found = check_args(
            HFLoaders.__init__, {"source": source}, ["self", "converter", "batch_size", "num_workers", "seed"]
        )
        return [(".".join(map(str, path)), text.partition(":")[0]) for path, text in found]

    assert problems({"files": "a.csv"}) == []
    assert problems({"hub": "a", "files": "b"})[0][1].startswith("found {")
    assert problems({"fles": "a"})[0] == ("source.fles", "no such key; allowed")
    assert problems({"hub": "a", "stream": {}}) == [("source.stream.samples_per_epoch", "required, but missing")]
    assert problems({"hub": "a", "stream": {"samples_per_epoch": 0}})[0][0] == "source.stream.samples_per_epoch"
    assert problems("a.csv") == [("source", 'found "a.csv", should be a mapping')]
