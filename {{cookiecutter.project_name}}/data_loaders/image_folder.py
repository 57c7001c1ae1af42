"""Image files in folders: `data/train/<class>/*.png`, and the same in `data/valid` and `data/test` if they are there.

Files are decoded when their batch is wanted, so that they need no more memory than their names.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch.utils.data import Dataset

from data_loaders.image_files import Sample, class_names, find_splits, read_image, survey
from data_loaders.loader import Loader, Loaders
from data_loaders.sampler import sampler_for
from logger.console import few, log
from utils.errors import UserError

Fraction = Annotated[float, Field(gt=0, lt=0.5)]


class ImageFolder(Dataset[tuple[torch.Tensor, int]]):
    """Decoded, normalised, and in training augmented images, with the numbers of their classes."""

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        mirror: bool = False,
        max_shift: int = 0,
    ) -> None:
        """Remember the files, and open none; a worker gets a copy of this object."""
        self.samples, self.size = samples, size
        self.mean, self.std = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
        self.mirror, self.max_shift = mirror, max_shift

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image `(channels, size, size)` and its class; called in a worker, if there are any."""
        file, label = self.samples[index]
        image = (read_image(file, self.size, len(self.mean)) - self.mean) / self.std
        # The global generators: they are seeded for each sample, from the run's seed, the epoch and the index.
        if self.mirror and random.random() < 0.5:
            image = image[:, :, ::-1]
        if self.max_shift:
            row, column = (random.randint(0, 2 * self.max_shift) for _ in range(2))
            around = [(0, 0), (self.max_shift, self.max_shift), (self.max_shift, self.max_shift)]
            image = np.pad(image, around, mode="edge")[:, row : row + self.size, column : column + self.size]
        return torch.from_numpy(np.ascontiguousarray(image)), label


class ImageFolderLoaders(Loaders):
    """Training, validation and test images; classes are numbered in the order of their folders' names."""

    def __init__(
        self,
        folder: str,
        batch_size: PositiveInt = 64,
        size: PositiveInt = 32,
        channels: Literal[1, 3] = 3,
        num_workers: NonNegativeInt = 0,
        mirror: bool = True,
        max_shift: NonNegativeInt = 2,
        mean: list[float] | None = None,
        std: list[PositiveFloat] | None = None,
        on_corrupt: Literal["refuse", "skip"] = "refuse",
        sampler: Literal["shuffled", "sequential", "weighted"] = "shuffled",
        valid_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.15,
        split_seed: NonNegativeInt = 0,
        *,
        seed: int,
    ) -> None:
        """Find the files.

        Args:
            folder: holds `train`, and `valid` and `test` or not; in each a folder of image files per class.
            batch_size: samples per training and evaluation step.
            size: height and width to which images are resized.
            channels: 1 for grey, 3 for colour.
            num_workers: processes that decode images ahead.
            mirror: exchange left and right of every other training image, anew in every epoch.
            max_shift: move training images by up to so many pixels; the edge pixels fill the gap.
            mean: of each channel, with pixels from 0 to 1; None measures it over the training images at each start.
            std: the standard deviation of each channel, likewise.
            on_corrupt: `refuse` ends the run at a file that cannot be decoded; `skip` decodes all files at the start
                and leaves such files out.
            sampler: the order of training samples; `weighted` draws every class equally often.
            valid_fraction: share of `train` that becomes the validation split if `valid` is missing.
            test_fraction: share of `train` that becomes the test split if `test` is missing.
            split_seed: makes other splits, where they are missing.
            seed: the run's seed, for the order of samples and the augmentation.

        Raises:
            UserError: there are no images, or they are not where they should be.
        """
        if (mean is None) != (std is None) or any(v is not None and len(v) != channels for v in (mean, std)):
            raise UserError(f"data_loader.args: mean and std belong together, with {channels} numbers in each")
        classes = class_names(Path(folder, "train"))
        fractions = {"valid": valid_fraction, "test": test_fraction}
        splits = find_splits(Path(folder), classes, fractions, split_seed)
        log.info("%s: %d classes: %s", folder, len(classes), few(classes))
        if mean is None or on_corrupt == "skip":
            measures = {split: survey(splits[split], size, channels, num_workers) for split in splits}
            splits = {split: sound(splits[split], measures[split], on_corrupt == "skip") for split in splits}
            if mean is None:
                mean, std = mean_and_std(measures["train"])
                log.info(
                    "measured; the next run need not, with: data_loader.args.mean=%s data_loader.args.std=%s", mean, std
                )
        assert mean is not None
        assert std is not None

        train = ImageFolder(splits["train"], size, mean, std, mirror=mirror, max_shift=max_shift)
        order = sampler_for(sampler, [label for _, label in splits["train"]], batch_size, seed=seed)
        valid, test = (ImageFolder(splits[split], size, mean, std) for split in ("valid", "test"))
        super().__init__(
            train=Loader(train, seed=seed, sampler=order, num_workers=num_workers),
            valid=Loader(valid, batch_size, num_workers=num_workers),
            test=Loader(test, batch_size, num_workers=num_workers),
            class_names=classes,
        )


def sound(samples: Sequence[Sample], measures: torch.Tensor, skip: bool) -> list[Sample]:
    """Return the samples that could be decoded; the others are named in warnings.

    Raises:
        UserError: one cannot be decoded and is not to be skipped, or all cannot.
    """
    corrupt = [sample for sample, row in zip(samples, measures, strict=True) if not row[0]]
    for file, _ in corrupt:
        try:
            read_image(file, size=1, channels=1)
        except UserError as error:
            if not skip or len(corrupt) == len(samples):
                raise
            log.warning("%s; it is left out", error)
    return [sample for sample, row in zip(samples, measures, strict=True) if row[0]]


def mean_and_std(measures: torch.Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, over the pixels of all images that could be decoded."""
    means, squares = measures[measures[:, 0] > 0, 1:].mean(dim=0).chunk(2)
    deviations = (squares - means.square()).clamp(min=0).sqrt()
    deviations[deviations < 1e-6] = 1  # a channel that is the same everywhere stays so
    return [round(x, 6) for x in means.tolist()], [round(x, 6) for x in deviations.tolist()]
