"""Text of a Hugging Face data set, as tokens."""

from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt

from data_loaders.byte_tokens import END
from data_loaders.collate import pad_tokens
from data_loaders.hf_loaders import HFLoaders
from data_loaders.hf_rows import MappedRows, Numbers
from data_loaders.hf_source import Source
from data_loaders.sampler import EpochSampler, LengthGroupedSampler


class Texts:
    """From texts to sequences of byte tokens; a long text is cut into several, as `prose.cut` does."""

    def __init__(self, column: str, max_length: int) -> None:
        """Read the texts of a column, in pieces of which a model predicts up to `max_length` tokens each."""
        self.columns, self.max_length = [column], max_length

    def check(self, schema: Any) -> list[str]:
        """Say what is wrong with the type of the column."""
        from pyarrow import types

        kind = schema.field(self.columns[0]).type
        text = types.is_string(kind) or types.is_large_string(kind)
        return [] if text else [f"column {self.columns[0]} holds {kind}, and no text"]

    def totals(self, rows: Any) -> Numbers:
        """Return how many tokens of each text are predicted: its bytes, and that it ends; 0 where there is no text."""
        from pyarrow import compute

        lengths = compute.binary_length(rows.column(0))
        return np.asarray(compute.fill_null(compute.add(lengths, 1), 0), np.int64)

    def counts(self, rows: Any) -> Numbers:
        """Return into how many pieces each text is cut."""
        return -(-self.totals(rows) // self.max_length)

    def lengths(self, totals: Numbers) -> Numbers:
        """Return how many tokens are predicted in each piece of texts of which so many are."""
        counts = -(-totals // self.max_length)
        lengths = np.full(counts.sum(), self.max_length)
        cut = counts > 0
        lengths[counts.cumsum()[cut] - 1] = (totals - (counts - 1) * self.max_length)[cut]
        return lengths

    def batch(self, rows: Any, parts: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, the tokens that come next, padded to the longest of the batch."""
        return pad_tokens([self._piece(text, part) for text, part in zip(rows.column(0), parts, strict=True)])

    def _piece(self, text: Any, part: int) -> torch.Tensor:
        """Cut a piece out of END, text, END, without a look at the rest of the text."""
        data = np.frombuffer(text.as_buffer(), np.uint8)
        begin = part * self.max_length
        end = min(begin + self.max_length + 1, len(data) + 2)
        tokens = torch.full((end - begin,), END)
        inside = data[max(begin - 1, 0) : end - 1]
        first = max(1 - begin, 0)
        tokens[first : first + len(inside)] = torch.from_numpy(inside.astype(np.int64))
        return tokens


class HFTextLoaders(HFLoaders):
    """Sequences of tokens from a column of texts, in batches of similar length unless they are a stream."""

    def __init__(
        self,
        source: Source,
        column: str = "text",
        batch_size: PositiveInt = 8,
        max_length: PositiveInt = 128,
        num_workers: NonNegativeInt = 0,
        *,
        seed: int,
    ) -> None:
        """Open the data.

        Args:
            source: where the data is, and how it is read.
            column: name of the column that holds the texts.
            batch_size: sequences per training and evaluation step.
            max_length: tokens that are predicted in one go; longer texts are cut into pieces.
            num_workers: processes that read ahead.
            seed: the run's seed, for the order of batches.

        Raises:
            UserError: the data cannot be read, or the column is not there.
        """
        texts = Texts(column, max_length)

        def grouped(rows: MappedRows, shuffle: bool) -> EpochSampler:
            lengths = texts.lengths(rows.of_rows(texts.totals))[: len(rows)]
            return LengthGroupedSampler(lengths, batch_size, seed=seed, shuffle=shuffle)

        super().__init__(source, texts, batch_size, num_workers, seed, grouped)
