"""Columns of numbers of a Hugging Face data set, and one of them to predict."""

from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from data_loaders.hf_loaders import HFLoaders
from data_loaders.hf_rows import Numbers
from data_loaders.hf_source import PLACE, Source
from data_loaders.loader import Loader
from data_loaders.tables import report_constants
from utils.errors import UserError

CHUNK = 1 << 13


class Columns:
    """From columns of numbers to features and a target."""

    counts = None  # each row is a sample

    def __init__(self, features: list[str], target: str) -> None:
        """Read these columns."""
        self.columns = [*features, target]

    def check(self, schema: Any) -> list[str]:
        """Name the columns that do not hold numbers."""
        from pyarrow import types

        kinds = {name: schema.field(name).type for name in self.columns}
        numbers = (types.is_integer, types.is_floating, types.is_boolean)
        return [
            f"column {name} holds {kind}, and no numbers"
            for name, kind in kinds.items()
            if not any(fits(kind) for fits in numbers)
        ]

    def batch(self, rows: Any, parts: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features `(n, columns)` and targets `(n,)`.

        Raises:
            UserError: a value is missing.
        """
        table = self.numbers(rows)
        lacking = [name for name, column in zip(self.columns, table.T, strict=True) if np.isnan(column).any()]
        if lacking:
            raise UserError(f"{PLACE}: values are missing in {', '.join(lacking)}; leave rows or columns out")
        values = torch.from_numpy(table).float()
        return values[:, :-1].contiguous(), values[:, -1].contiguous()

    def numbers(self, rows: Any) -> NDArray[np.float64]:
        """Return rows as an array, with NaN where a value is missing."""
        return np.stack([rows.column(name).cast("float64", safe=False).to_numpy() for name in self.columns], axis=1)


def moments(loader: Loader, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of the columns over the first samples of a loader, the target last.

    They are merged piece by piece (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", 1979), so that neither memory nor accuracy depends on how many there are.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for begin in range(0, samples, CHUNK):
        features, target = loader.load(list(range(begin, min(begin + CHUNK, samples))))
        part = torch.cat([features, target[:, None]], dim=1).double().numpy()
        away, share = part.mean(axis=0) - mean, len(part) / (count + len(part))
        squares = squares + np.square(part - part.mean(axis=0)).sum(axis=0) + away**2 * count * share
        mean = mean + away * share
        count += len(part)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(squares / count)).float()


class HFTableLoaders(HFLoaders):
    """Columns of numbers by their names, with the means and standard deviations of the training rows for the model.

    Those of a stream are of the first rows that are shuffled together.
    """

    def __init__(
        self,
        source: Source,
        target: str,
        features: Annotated[list[str], Field(min_length=1)],
        batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt = 0,
        *,
        seed: int,
    ) -> None:
        """Open the data.

        Args:
            source: where the data is, and how it is read.
            target: name of the column to predict.
            features: names of the columns to predict from.
            batch_size: samples per training and evaluation step.
            num_workers: processes that read ahead.
            seed: the run's seed, for the order of samples.

        Raises:
            UserError: the data cannot be read, a column is not there, or it does not hold numbers.
        """
        columns = Columns(features, target)
        super().__init__(source, columns, batch_size, num_workers, seed, features=features, target=target)
        mean, std = moments(self.train, self.seen_first())
        report_constants([*features, target], std.numpy())
        self.statistics = {
            "feature_mean": mean[:-1],
            "feature_std": std[:-1],
            "target_mean": mean[-1],
            "target_std": std[-1],
        }
