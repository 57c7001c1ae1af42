"""From rows of an Arrow table to batches, wherever in a table that may be larger than memory they stand."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_loaders.dataset import BatchDataset
from data_loaders.hf_source import PLACE, Source
from data_loaders.hf_split import Split
from utils.config_problems import nearest
from utils.errors import UserError

CHUNK = 1 << 16  # rows that are looked at together when all are

Numbers = NDArray[np.int64]


class Converter(Protocol):
    """How rows become samples.

    Attributes:
        columns: names of the columns that it reads.
    """

    columns: list[str]

    @property
    def counts(self) -> Callable[[Any], Numbers] | None:
        """A function that says of each row of a `pyarrow.Table` how many samples it is; None if each is one."""

    def check(self, schema: Any) -> list[str]:
        """Say what is wrong with the types of the columns in a `pyarrow.Schema`, a line each."""

    def batch(self, rows: Any, parts: Numbers) -> Any:
        """Turn rows of a `pyarrow.Table` into a batch: of each the sample that `parts` says, counted from 0."""


def check_columns(schema: Any, converter: Converter, source: Source) -> None:
    """See that a table has the columns that are wanted.

    Raises:
        UserError: it does not, or they are of another type.
    """
    unknown = [name for name in converter.columns if name not in schema.names]
    problems = [f"there is no column {name}{nearest(name, schema.names)}" for name in unknown]
    if problems := problems or converter.check(schema):
        raise UserError("\n".join([f"{PLACE}: {source}: its columns are {', '.join(schema.names)}", *problems]))


def locate(ends: Numbers, samples: Numbers) -> tuple[Numbers, Numbers]:
    """Find samples in rows that may be several each.

    Args:
        ends: for each row, how many samples there are up to its end.
        samples: their numbers.

    Returns:
        For each sample its row, and its number within it.
    """
    rows = np.searchsorted(ends, samples, side="right")
    return rows, samples - np.where(rows > 0, ends[rows - 1], 0)


class MappedRows(BatchDataset):
    """Samples in an Arrow table that stays on the disk and is mapped into memory where it is read.

    Memory: 8 bytes for each row, if some rows belong to another split, and 8 if a row may be several samples.
    """

    def __init__(self, table: Any, converter: Converter, split: Split | None = None, most: int | None = None) -> None:
        """Find out which samples there are.

        Args:
            table: a `datasets.Dataset` of Arrow tables.
            converter: how rows become samples.
            split: to which not all rows may belong; None takes all.
            most: how many samples to have at most.
        """
        self.table, self.converter = table.select_columns(converter.columns), converter
        self.rows, self.ends = None, None
        samples = len(table)
        if split is not None and split.shares_rows:
            self.rows = np.concatenate(
                [split.rows(begin, min(begin + CHUNK, samples)) for begin in range(0, samples, CHUNK)]
            )
            samples = len(self.rows)
        if converter.counts is not None:
            self.ends = self.of_rows(converter.counts).cumsum()
            samples = int(self.ends[-1]) if len(self.ends) else 0
        self.samples = min(samples, most or samples)

    def of_rows(self, function: Callable[[Any], Numbers]) -> Numbers:
        """Return what a function, which takes a `pyarrow.Table`, says of each row, read one after the other."""
        parts = [function(self.table[begin : begin + CHUNK]) for begin in range(0, len(self.table), CHUNK)]
        values = np.concatenate([np.empty(0, np.int64), *parts])
        return values if self.rows is None else values[self.rows]

    def __len__(self) -> int:
        """Return the number of samples; a sampler hands out indices below it."""
        return self.samples

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch: only the rows that hold these samples are read."""
        numbers = np.asarray(indices, np.int64)
        rows, parts = (numbers, np.zeros_like(numbers)) if self.ends is None else locate(self.ends, numbers)
        return self.converter.batch(self.read(rows if self.rows is None else self.rows[rows]), parts)

    def read(self, rows: Numbers) -> Any:
        """Return rows of the table, as a `pyarrow.Table`."""
        low, high = int(rows.min()), int(rows.max()) + 1
        if high - low <= 16 * len(rows):  # one piece of the file, and not a row at a time
            return self.table[low:high].take(rows - low)
        return self.table[rows.tolist()]
