"""Handwritten digits: the 1,797 real images of 8×8 pixels that scikit-learn carries.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from data_loaders.randomness import uniform
from data_loaders.sampler import sampler_for

Fraction = Annotated[float, Field(gt=0, lt=0.5)]
Digit = Annotated[int, Field(ge=0, le=9)]


class DigitsDataset(InMemoryDataset):
    """Images of shape `(1, 8, 8)` and their labels, 0 to 9; augmented ones are shifted by up to a pixel."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, *, augment: bool, seed: int) -> None:
        """Hold normalised images `(n, 1, 8, 8)` and labels `(n,)`."""
        super().__init__(images, labels, seed=seed)
        self.augment = augment

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return images `(len(indices), 1, 8, 8)` and labels `(len(indices),)`."""
        images, labels = super().__getitems__(indices)
        if self.augment:
            shifts = (uniform(self.seed, self.epoch, indices, draws=2) * 3).astype(np.int64)
            images = shift(images, torch.from_numpy(shifts))
        return images, labels


def shift(images: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Move each image by -1, 0 or 1 pixel along both axes; its edge pixels fill the gap.

    Args:
        images: shape `(n, 1, height, width)`.
        shifts: whole numbers 0, 1 or 2, shape `(n, 2)`; 1 leaves the image where it is.
    """
    n, _, height, width = images.shape
    rows = (torch.arange(height) + shifts[:, :1] - 1).clamp_(0, height - 1)
    columns = (torch.arange(width) + shifts[:, 1:] - 1).clamp_(0, width - 1)
    return images[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


class DigitsLoaders(Loaders):
    """Training, validation and test data, disjoint and with the same share of each digit.

    Images are normalised by the mean and standard deviation of the training split.
    """

    def __init__(
        self,
        batch_size: PositiveInt = 64,
        augment: bool = True,
        valid_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        split_seed: NonNegativeInt = 0,
        classes: Annotated[list[Digit], Field(min_length=2)] | None = None,
        samples_per_class: PositiveInt | None = None,
        rare: Annotated[list[Digit], Field(min_length=1)] | None = None,
        rare_samples: PositiveInt = 3,
        sampler: Literal["shuffled", "sequential", "weighted"] = "shuffled",
        *,
        seed: int,
    ) -> None:
        """Read and split the data.

        Args:
            batch_size: samples per training and evaluation step.
            augment: shift training images by up to a pixel, anew in every epoch.
            valid_fraction: share of the data that validation gets.
            test_fraction: share of the data that is kept for `test.py`.
            split_seed: makes another split; apart from `seed`, so that runs of several seeds share a test set.
            classes: the digits to tell apart, numbered from 0 in this order; None takes all ten.
            samples_per_class: training images of each digit, the first in the training split; None takes all.
            rare: digits of which there are few training images; None makes none rare.
            rare_samples: training images of each rare digit.
            sampler: the order of training samples; `weighted` draws every class equally often, however rare.
            seed: the run's seed, for the order of samples and the augmentation.
        """
        # Imported here because it takes a second and nothing else in the project needs it.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        rest, test = train_test_split(
            np.arange(len(labels)), test_size=test_fraction, stratify=labels, random_state=split_seed
        )
        train, valid = train_test_split(
            rest,
            test_size=valid_fraction / (1 - test_fraction),
            stratify=labels[rest],
            random_state=split_seed,
        )
        images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)
        images = (images - images[train].mean()) / images[train].std()
        targets = torch.from_numpy(labels).long()
        if classes is not None:
            train, valid, test = (rows[np.isin(labels[rows], classes)] for rows in (train, valid, test))
            number_of = torch.full((10,), -1)
            number_of[classes] = torch.arange(len(classes))
            targets = number_of[targets]
        if samples_per_class is not None:
            train = np.concatenate([train[labels[train] == d][:samples_per_class] for d in np.unique(labels[train])])
        for digit in rare or []:
            train = np.concatenate([train[labels[train] != digit], train[labels[train] == digit][:rare_samples]])

        def dataset(rows: "np.ndarray[tuple[int], np.dtype[np.int64]]", augment: bool) -> DigitsDataset:
            return DigitsDataset(images[rows], targets[rows], augment=augment, seed=seed)

        super().__init__(
            train=Loader(dataset(train, augment), sampler=sampler_for(sampler, targets[train], batch_size, seed=seed)),
            valid=Loader(dataset(valid, False), batch_size),
            test=Loader(dataset(test, False), batch_size),
        )
