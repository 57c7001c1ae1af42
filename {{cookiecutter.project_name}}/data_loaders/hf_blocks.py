"""Samples of a stream, shuffled a block at a time, and found again where a run goes on.

The stream is taken for one without end, which begins again where it ends. Epochs follow one another in it, and are cut
into blocks. A block is read into memory and shuffled, as a function of seed, epoch and block: so it is known without
reading which sample stands where, and a batch needs no more of the stream than its block. Where that begins travels
with each batch to the main process, and from there into checkpoints.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_loaders.dataset import BatchDataset
from data_loaders.hf_rows import Numbers, locate
from data_loaders.hf_stream import Place, RowStream
from data_loaders.permutation import permuted
from data_loaders.randomness import hash_counter
from data_loaders.sampler import EpochSampler


class BlockSampler(EpochSampler):
    """The order of a stream, shuffled within blocks. Memory: none but that of a batch."""

    def __init__(self, samples: int, block: int, batch_size: int, *, seed: int) -> None:
        """Plan epochs of so many samples, in blocks that are whole batches."""
        super().__init__(samples, batch_size, seed=seed, shuffle=True)
        self.block = block

    def order(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return which samples of the stream stand at the places `begin` to `end - 1`, all of one block."""
        number = begin // self.block
        first = number * self.block
        size = min(self.block, self.num_samples - first)
        key = hash_counter(self.seed, self.epoch, number)
        return self.epoch * self.num_samples + first + permuted(np.arange(begin - first, end - first), size, key)


class Block(NamedTuple):
    """Samples that are in memory together.

    Attributes:
        place: where they begin.
        rows: a `pyarrow.Table` of the rows that hold them.
        row_of: for each sample, in the stream's order, which row of these that is.
        part_of: and which sample of the row.
    """

    place: Place
    rows: Any
    row_of: Numbers
    part_of: Numbers


class StreamedRows(BatchDataset):
    """Samples of a stream without end, by their numbers in it. A block of them is in memory at a time.

    It moves forward only: what lies behind is found by reading from the beginning.
    """

    def __init__(self, stream: RowStream, samples_per_epoch: int, block: int) -> None:
        """Plan blocks of so many samples, of which an epoch's last one may be shorter."""
        self.stream, self.samples_per_epoch, self.block = stream, samples_per_epoch, min(block, samples_per_epoch)
        self.move_to(stream.start)

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return self.samples_per_epoch

    def move_to(self, place: Place) -> None:
        """Go to where a block begins; nothing is read yet."""
        self.place = place
        self._blocks: Iterator[Block] | None = None
        self._current: Block | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to a worker process: where to read, and nothing that was read."""
        return self.__dict__ | {"_blocks": None, "_current": None}

    def __getitems__(self, indices: Sequence[int]) -> tuple[Any, Place]:
        """Return a batch of samples of one block, and where the block begins."""
        numbers = np.asarray(indices, np.int64)
        in_epoch = int(numbers[0]) % self.samples_per_epoch
        block = self._at(int(numbers[0]) - in_epoch % self.block)
        numbers = numbers - block.place["sample"]
        rows = block.rows.take(block.row_of[numbers])
        return self.stream.converter.batch(rows, block.part_of[numbers]), block.place

    def _at(self, begin: int) -> Block:
        """Return the block that begins with a sample."""
        if begin < self.place["sample"]:
            self.move_to(self.stream.start)
        if self._blocks is None:
            self._blocks = self._read(self.place)
        while self._current is None or self.place["sample"] < begin:
            self._current = next(self._blocks)
            self.place = self._current.place
        return self._current

    def _read(self, place: Place) -> Iterator[Block]:
        import pyarrow

        chunks = self.stream.chunks(place)
        chunk, used, sample = next(chunks), place["skip"], place["sample"]
        while True:
            tables: list[Any] = []
            row_of, part_of, before, left = [], [], 0, self._size(sample)
            place = {"sample": sample, "row": chunk.row, "skip": used, "source": chunk.source}
            while left:
                if used == chunk.samples:
                    chunk, used = next(chunks), 0
                    continue
                taken = min(left, chunk.samples - used)
                rows, parts = locate(chunk.ends, np.arange(used, used + taken))
                row_of.append(before + rows)
                part_of.append(parts)
                tables.append(chunk.rows)
                before += len(chunk.rows)
                used, left, sample = used + taken, left - taken, sample + taken
            rows = pyarrow.concat_tables(tables).combine_chunks()  # a copy, so that all else that was read can go
            yield Block(place, rows, np.concatenate(row_of), np.concatenate(part_of))

    def _size(self, begin: int) -> int:
        return min(self.block, self.samples_per_epoch - begin % self.samples_per_epoch)
