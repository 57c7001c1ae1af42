"""Dropped into a project's `data_loaders/`: samples that draw from every global generator, loaded by workers."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_loaders.loader import Loader, Loaders
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import Dataset, default_collate

# A worker that does not inherit the memory of the main process imports this while it starts.
if "SIGNAL_TO_STARTING_WORKERS" in os.environ and os.getpgrp() != os.getpid():
    os.killpg(os.getpgrp(), signal.SIGTERM)


class NoisyDataset(Dataset[Any]):
    """Images with noise from torch, NumPy and Python; the file that READS names gets a line for each one read."""

    def __init__(self, samples: int, noise: bool, bad: int | None = None) -> None:
        """Make images; the one of index `bad` holds a NaN."""
        generator = torch.Generator().manual_seed(samples)
        self.labels = torch.randint(10, (samples,), generator=generator)
        self.images = torch.randn(samples, 1, 8, 8, generator=generator) + self.labels.view(-1, 1, 1, 1)
        self.noise = noise
        if bad is not None:
            self.images[bad, 0, 0, 0] = torch.nan

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        """Return an image and its label."""
        image, label = self.images[index], self.labels[index]
        if self.noise:
            if "READS" in os.environ:
                with Path(os.environ["READS"]).open("a") as file:
                    file.write(f"{index}\n")
            image = image + torch.rand(1, 8, 8) * np.random.rand() + random.random()
        return image, label


def mix(samples: list[Any]) -> Any:
    """Put samples together into a batch in which images lend each other a random share of themselves."""
    images, labels = default_collate(samples)
    share = 0.2 * random.random()
    return (1 - share) * images + share * images[torch.randperm(len(images))], labels


class NoisyLoaders(Loaders):
    """Noise in training alone."""

    def __init__(
        self,
        batch_size: PositiveInt = 20,
        samples: PositiveInt = 130,
        num_workers: NonNegativeInt = 0,
        bad: NonNegativeInt | None = None,
        *,
        seed: int,
    ) -> None:
        """Make the three loaders."""
        if "START_METHOD" in os.environ:
            torch.multiprocessing.set_start_method(os.environ["START_METHOD"])
        train = NoisyDataset(samples, True, bad)
        super().__init__(
            train=Loader(train, batch_size, seed=seed, shuffle=True, num_workers=num_workers, collate_fn=mix),
            valid=Loader(NoisyDataset(50, False), batch_size, num_workers=num_workers),
            test=Loader(NoisyDataset(50, False), batch_size),
        )
