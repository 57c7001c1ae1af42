"""Which rows of a Hugging Face data set are for training, which for validation, and which for the test."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_loaders.hf_source import Source
from data_loaders.randomness import uniform

SplitName = Literal["train", "valid", "test"]


@dataclass
class Split:
    """The rows of a source that are for training, validation or test.

    A split that the source does not have is made of rows of the training split, which are held back from training.
    Whether one is, is a function of its number alone: of a stream the same ones are held back.
    """

    source: Source
    name: SplitName

    def open(self) -> Any:
        """Open what holds the rows."""
        return self.source.open(
            {"train": None, "valid": self.source.valid, "test": self.source.test}[self.name] or self.source.train
        )

    @property
    def shares_rows(self) -> bool:
        """Whether there are also rows of other splits in what `open` returns."""
        missing = {"valid": self.source.valid is None, "test": self.source.test is None}
        return missing.get(self.name, any(missing.values()))

    def rows(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return the numbers from `begin` to `end - 1` of the rows that belong to this split."""
        numbers = np.arange(begin, end)
        draws = uniform(0, 0, numbers, draws=1)[:, 0]  # type: ignore[arg-type]
        test = (draws < self.source.held_back) & (self.source.test is None)
        valid = (draws >= 1 - self.source.held_back) & (self.source.valid is None)
        return numbers[{"train": ~(test | valid), "valid": valid, "test": test}[self.name]]
