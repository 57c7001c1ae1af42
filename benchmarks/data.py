"""How fast batches arrive: the project's loader against a plain `DataLoader` over the same dataset.

    python benchmarks/data.py [--rounds 5]

Image files are decoded from PNG and augmented, texts are padded to the longest of a batch. Each loader runs through
the data in one process, and with 1 and 2 workers that live on; the first pass, which starts them, does not count. The
two take turns. The project's loader also seeds every sample, so that it comes out the same in any process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.collate import pad_tokens
from data_loaders.image_files import Sample
from data_loaders.image_folder import ImageFolder
from data_loaders.loader import Loader
from data_loaders.prose import TextDataset, documentation, paragraphs


def image_files(folder: Path, count: int = 1024) -> Dataset[Any]:
    """Write images of 64×64 pixels, and return a dataset that decodes and augments them."""
    from PIL import Image

    generator = np.random.default_rng(0)
    samples = []
    for number in range(count):
        file = folder / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(file)
        samples.append(Sample(str(file), number % 10))
    return ImageFolder(samples, 32, [0.5] * 3, [0.25] * 3, mirror=True, max_shift=2)


def texts() -> Dataset[Any]:
    """Return the paragraphs of Python's documentation as sequences of bytes."""
    return TextDataset(paragraphs(documentation()), 128)


def epoch(batches: Iterable[Any]) -> float:
    """Run through the data, and return the seconds that this took."""
    begin = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - begin


def loaders(dataset: Dataset[Any], collate: Callable[..., Any] | None, workers: int) -> tuple[DataLoader[Any], Loader]:
    """Make the loader that everybody would write, and the project's."""
    plain: DataLoader[Any] = DataLoader(
        dataset, 64, shuffle=True, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )
    return plain, Loader(dataset, 64, shuffle=True, collate_fn=collate, num_workers=workers)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns (5)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| data | workers | plain DataLoader | this project | throughput, × plain |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        sources = {"image files": (image_files(Path(folder)), None), "text": (texts(), pad_tokens)}
        for name, (dataset, collate) in sources.items():
            samples = len(dataset)  # type: ignore[arg-type]
            for workers in (0, 1, 2):
                plain, own = loaders(dataset, collate, workers)
                epoch(plain), epoch(own)
                times = [(epoch(plain), epoch(own)) for _ in range(rounds)]
                speeds = [samples / statistics.median(column) for column in zip(*times, strict=True)]
                ratio = statistics.median(bare / ours for bare, ours in times)
                own.close()
                del plain
                row = f"| {name} | {workers} | {speeds[0]:,.0f} samples/s | {speeds[1]:,.0f} samples/s | {ratio:.2f} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
