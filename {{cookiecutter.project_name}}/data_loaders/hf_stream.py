"""Rows of a Hugging Face data set, read one after the other from the beginning or from any place noted before."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from data_loaders.hf_rows import Converter, Numbers, check_columns
from data_loaders.hf_source import PLACE, explained
from data_loaders.hf_split import Split
from utils.errors import UserError

CHUNK = 256  # rows that are read together

Place = dict[str, Any]
"""A place in the stream: which sample comes next (`sample`), in which chunk of rows (`source`, by which the library
finds it, and `row`, the number of its first row), and how many samples of the chunk lie behind (`skip`)."""


class Chunk(NamedTuple):
    """Some rows of a stream.

    Attributes:
        row: number of the first row, held-back rows counted as well.
        source: how the library finds it again.
        rows: a `pyarrow.Table` of the rows that belong to the split.
        ends: how many samples there are up to the end of each of these.
    """

    row: int
    source: Any
    rows: Any
    ends: Numbers

    @property
    def samples(self) -> int:
        """How many samples there are in all."""
        return int(self.ends[-1]) if len(self.ends) else 0


class RowStream:
    """Reads a stream of rows, on from any place that it was at before."""

    def __init__(self, split: Split, converter: Converter) -> None:
        """Open a stream, and look at its first rows.

        Raises:
            UserError: they cannot be read, or are not what was expected.
        """
        self.split, self.converter = split, converter
        data = split.open()
        with explained(split.source):
            schema = next(iter(data.iter(batch_size=1))).schema
        check_columns(schema, converter, split.source)
        self.data = data.select_columns(converter.columns)
        self.start: Place = {"sample": 0, "row": 0, "skip": 0, "source": self.data.state_dict()}

    def head(self, samples: int) -> Any:
        """Read the first samples into memory, as a `datasets.Dataset`; its last row may hold some more."""
        import datasets
        import pyarrow

        tables, found = [], 0
        for chunk in self.chunks(self.start, once=True):
            tables.append(chunk.rows)
            found += chunk.samples
            if found >= samples:
                break
        table = pyarrow.concat_tables(tables).combine_chunks()
        return datasets.Dataset(datasets.table.InMemoryTable(table)).with_format("arrow")

    def chunks(self, place: Place, *, once: bool = False) -> Iterator[Chunk]:
        """Read on, beginning with the chunk that a place is in.

        Args:
            place: where to begin.
            once: stop at the end of the stream; otherwise it begins again.

        Raises:
            UserError: the stream cannot be read, or has no sample.
        """
        row, source = place["row"], place["source"]
        while True:
            begun, found = row, 0
            self.data.load_state_dict(source)
            tables = self.data.iter(batch_size=CHUNK)
            while (table := self._next(tables)) is not None:
                chunk = self._chunk(row, source, table)
                yield chunk
                row, source, found = row + len(table), self.data.state_dict(), found + chunk.samples
            if once:
                return
            if begun == 0 and not found:
                raise UserError(f"{PLACE}: {self.split.source}: it holds no samples for {self.split.name}")
            row, source = 0, self.start["source"]

    def _next(self, tables: Iterator[Any]) -> Any:
        with explained(self.split.source):
            return next(tables, None)

    def _chunk(self, row: int, source: Any, table: Any) -> Chunk:
        if self.split.shares_rows:
            table = table.take(self.split.rows(row, row + len(table)) - row)
        counts = self.converter.counts(table) if self.converter.counts else np.ones(len(table), np.int64)
        return Chunk(row, source, table, counts.cumsum())
