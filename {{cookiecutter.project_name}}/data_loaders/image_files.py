"""Image files in a folder per class: which there are, what is in them, and which cannot be read."""

import random
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_loaders.loader import Loader
from utils.errors import UserError

TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")


class Sample(NamedTuple):
    """A file, and the number of its class."""

    file: str
    label: int


def class_names(folder: Path) -> list[str]:
    """List the class folders of a folder, sorted.

    Raises:
        UserError: there are none.
    """
    if not folder.is_dir():
        above = f"; the folder above it is meant: {folder.parents[1]}" if folder.parent.name == folder.name else ""
        raise UserError(f"{folder}: there is no such folder; images are looked for in {folder / '<class>'}{above}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: holds no folders; it needs one for each class, with images in it")
    return names


def find_samples(folder: Path, classes: Sequence[str]) -> list[Sample]:
    """List the images of a folder, class by class, sorted by name within each.

    Raises:
        UserError: there are folders of other classes, or no image at all.
    """
    foreign = sorted(set(class_names(folder)) - set(classes))
    if foreign:
        raise UserError(f"{folder}: holds classes that training lacks: {', '.join(foreign)}")
    samples = []
    for label, name in enumerate(classes):
        files = (file for file in (folder / name).rglob("*") if file.suffix.lower() in TYPES)
        samples += [Sample(file, label) for file in sorted(str(file) for file in files if file.name[0] != ".")]
    if not samples:
        raise UserError(f"{folder}: holds no images ({', '.join(TYPES)}) in its class folders")
    return samples


def split_off(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Divide samples that are in the order of their classes, by chance, with the same share of each class.

    Returns:
        What is left, and the fraction that was split off.
    """
    left, off = [], []
    for _, group in groupby(samples, key=lambda sample: sample.label):
        of_class = list(group)
        random.Random(seed).shuffle(of_class)
        count = round(fraction * len(of_class))
        off += sorted(of_class[:count])
        left += sorted(of_class[count:])
    return left, off


def find_splits(
    folder: Path, classes: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[Sample]]:
    """Find the samples of `train` and of other splits, which are split off from `train` where they have no folder.

    Args:
        folder: holds `train`.
        classes: the names of the class folders.
        fractions: for each other split the share of the images in `train`, should it have no folder.
        seed: makes another division.

    Raises:
        UserError: a class or a split has no images.
    """
    train = find_samples(folder / "train", classes)
    empty = [name for label, name in enumerate(classes) if label not in {sample.label for sample in train}]
    if empty:
        raise UserError(
            f"{folder / 'train' / empty[0]}: holds no images ({', '.join(TYPES)}), and each class needs some"
        )
    splits, left = {}, 1.0
    for split, fraction in fractions.items():
        if (folder / split).exists():
            splits[split] = find_samples(folder / split, classes)
            continue
        train, splits[split] = split_off(train, fraction / left, seed)
        left -= fraction
        if not splits[split]:
            raise UserError(
                f"{folder / 'train'}: holds too few images to split off {fraction:.0%} of each class for {split}"
            )
    return {"train": train, **splits}


def read_image(file: str | BinaryIO, size: int, channels: int, name: str | None = None) -> NDArray[np.float32]:
    """Decode an image.

    Args:
        file: its path, or what it holds.
        size: height and width to which it is resized.
        channels: 1 for grey, 3 for colour.
        name: what it is called in a message; None is its path.

    Returns:
        Numbers from 0 to 1, shape `(channels, size, size)`.

    Raises:
        UserError: it cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            resized = image.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise what they like on damaged files
        raise UserError(f"{name or file}: cannot be read as an image: {error}") from error
    pixels = np.asarray(resized, np.float32).reshape(size, size, channels) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class _Survey(Dataset[torch.Tensor]):
    """Per file: whether it can be read, and the means of its pixels and of their squares."""

    def __init__(self, samples: Sequence[Sample], size: int, channels: int) -> None:
        self.samples, self.size, self.channels = samples, size, channels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        try:
            image = read_image(self.samples[index].file, self.size, self.channels)
        except UserError:
            return torch.zeros(1 + 2 * self.channels, dtype=torch.float64)
        pixels = torch.from_numpy(image).double().flatten(1)
        return torch.cat([torch.ones(1), pixels.mean(dim=1), pixels.square().mean(dim=1)])


def survey(samples: Sequence[Sample], size: int, channels: int, num_workers: int) -> torch.Tensor:
    """Decode all samples once.

    Returns:
        A row for each: 1, then for each channel the mean of the pixels, then those of their squares; or all 0 where
        the file cannot be read.
    """
    loader = Loader(_Survey(samples, size, channels), 64, num_workers=num_workers)
    try:
        return torch.cat(list(loader))
    finally:
        loader.close()
