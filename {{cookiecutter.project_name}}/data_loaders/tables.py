"""Tables: rows of numbers, of which one column is to be predicted from others.

The diabetes data is that of B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least Angle Regression", 2004.
"""

import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from data_loaders.csv_table import read_columns, read_header
from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from logger.console import log
from utils.errors import UserError

Fraction = Annotated[float, Field(gt=0, lt=0.5)]
Array = NDArray[np.float64]


class TrainingTable(Loader):
    """The training rows; checkpoints keep what the columns are called, and notice a table that has changed."""

    features: list[str]
    target: str

    def state_dict(self) -> dict[str, Any]:
        """Return the columns' names and a checksum of the numbers."""
        assert isinstance(self.dataset, InMemoryDataset)
        checksum = 0
        for tensor in self.dataset.tensors:
            checksum = zlib.crc32(tensor.numpy().tobytes(), checksum)
        return {"features": self.features, "target": self.target, "checksum": checksum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See that the table is the one that the run began with.

        Raises:
            UserError: it is not.
        """
        if state != self.state_dict():
            raise UserError(
                "data_loader: the training rows are not those that this run began with; "
                "start a new run, and name this one in init_from to begin with its weights"
            )


class _TableLoaders(Loaders):
    """Splits a table, and keeps mean and standard deviation of the training rows for the model."""

    def __init__(
        self,
        columns: Array,
        names: list[str],
        batch_size: int,
        fractions: tuple[float, float],
        split_seed: int,
        seed: int,
    ) -> None:
        """Take rows of numbers, the target in the last column; NaN among the features is a missing value."""
        train, valid, test = _split(len(columns), *fractions, split_seed)
        # As the model will see them: in 32 bits.
        columns = columns.astype(np.float32).astype(np.float64)
        _fill_in(columns, train, names)
        mean, std = columns[train].mean(axis=0), columns[train].std(axis=0)
        std[np.ptp(columns[train], axis=0) == 0] = 0  # where the mean is rounded, it would be almost 0
        report_constants(names, std)

        def rows(which: torch.Tensor) -> InMemoryDataset:
            table = torch.from_numpy(columns[which]).float()
            return InMemoryDataset(table[:, :-1].contiguous(), table[:, -1].contiguous())

        training = TrainingTable(rows(train), batch_size, seed=seed, shuffle=True)
        training.features, training.target = names[:-1], names[-1]
        means, stds = torch.from_numpy(mean).float(), torch.from_numpy(std).float()
        super().__init__(
            train=training,
            valid=Loader(rows(valid), batch_size),
            test=Loader(rows(test), batch_size),
            statistics={
                "feature_mean": means[:-1],
                "feature_std": stds[:-1],
                "target_mean": means[-1],
                "target_std": stds[-1],
            },
        )


class DiabetesLoaders(_TableLoaders):
    """Ten measurements of 442 people, and how far their diabetes progressed within a year (25 to 346 points)."""

    def __init__(
        self,
        batch_size: PositiveInt = 64,
        valid_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        split_seed: NonNegativeInt = 0,
        *,
        seed: int,
    ) -> None:
        """Read and split the data.

        Args:
            batch_size: samples per training and evaluation step.
            valid_fraction: share of the data that validation gets.
            test_fraction: share of the data that is kept for `test.py`.
            split_seed: makes another split; apart from `seed`, so that runs of several seeds share a test set.
            seed: the run's seed, for the order of samples.
        """
        # Imported here because it takes a second and nothing else in the project needs it.
        from sklearn.datasets import load_diabetes

        data = load_diabetes(scaled=False)
        columns = np.column_stack([data.data, data.target])
        names = [*data.feature_names, "progression"]
        super().__init__(columns, names, batch_size, (valid_fraction, test_fraction), split_seed, seed)


class CsvLoaders(_TableLoaders):
    """A CSV file in UTF-8 whose first line names the columns; what is used of it has to be numbers."""

    def __init__(
        self,
        file: str,
        target: str,
        features: Annotated[list[str], Field(min_length=1)] | None = None,
        missing: Literal["refuse", "drop", "mean"] = "refuse",
        delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ",",
        batch_size: PositiveInt = 64,
        valid_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        split_seed: NonNegativeInt = 0,
        *,
        seed: int,
    ) -> None:
        """Read and split the data.

        Args:
            file: path of the file.
            target: name of the column to predict.
            features: names of the columns to predict from; None takes all others that have a name.
            missing: what to do about empty values, NA, NaN and the like: refuse the file, drop their rows, or fill in
                the mean of the training rows (rows without a target are dropped then).
            delimiter: what stands between two values.
            batch_size: samples per training and evaluation step.
            valid_fraction: share of the data that validation gets.
            test_fraction: share of the data that is kept for `test.py`.
            split_seed: makes another split; apart from `seed`, so that runs of several seeds share a test set.
            seed: the run's seed, for the order of samples.
        """
        path = Path(file)
        if features is None:
            features = [name for name in read_header(path, delimiter) if name and name != target]
        names = [*features, target]
        if len(set(names)) < len(names):
            raise UserError("data_loader.args: features and target name a column twice")
        columns = _handle_missing(read_columns(path, names, delimiter), names, path, missing)
        log.info("%s: %d rows, %s from %s", path, len(columns), target, ", ".join(features))
        super().__init__(columns, names, batch_size, (valid_fraction, test_fraction), split_seed, seed)


def _split(rows: int, valid_fraction: float, test_fraction: float, seed: int) -> tuple[torch.Tensor, ...]:
    """Divide the numbers of the rows at random into training, validation and test."""
    valid, test = round(rows * valid_fraction), round(rows * test_fraction)
    if min(valid, test) < 2 or rows - valid - test < 2:
        raise UserError(f"data_loader: {rows} rows are too few to be split into training, validation and test")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return order.tensor_split([rows - valid - test, rows - test])


def _handle_missing(columns: Array, names: list[str], file: Path, missing: str) -> Array:
    """Count what is missing, and drop rows or refuse them all; features may also stay, to be filled in."""
    absent = np.isnan(columns)
    if not absent.any():
        return columns
    counts = zip(names, absent.sum(axis=0), strict=True)
    found = ", ".join(f"{name} {count}" for name, count in counts if count)
    lacking = f"{file}: {absent.any(axis=1).sum()} of {len(columns)} rows miss values ({found})"
    if missing == "refuse":
        raise UserError(
            f"{lacking}; with data_loader.args.missing=drop these rows are left out, and with missing=mean "
            "the mean of the training rows is filled in"
        )
    dropped = absent.any(axis=1) if missing == "drop" else absent[:, -1]
    log.warning("%s; %d are dropped", lacking, dropped.sum())
    return columns[~dropped]


def _fill_in(columns: Array, train: torch.Tensor, names: list[str]) -> None:
    """Put the mean of the training rows wherever a value is missing."""
    for name, column in zip(names, columns.T, strict=True):
        known = column[train][~np.isnan(column[train])]
        if not known.size:
            raise UserError(f"data_loader: no training row has a value of {name}; leave this column out")
        column[np.isnan(column)] = known.mean()


def report_constants(names: list[str], std: Array) -> None:
    """Name the columns that never vary, whose standard deviation is 0; the last one is the target.

    Raises:
        UserError: the target is one of them.
    """
    if std[-1] == 0:
        raise UserError(f"data_loader: {names[-1]} is the same in all training rows; there is nothing to predict")
    constant = [name for name, value in zip(names, std, strict=True) if value == 0]
    if constant:
        log.warning("the same in all training rows, and so of no effect: %s", ", ".join(constant))
