"""What grouping by length saves: the share of padding in the batches of an epoch.

python benchmarks/padding.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.prose import ProseLoaders, TextDataset
from data_loaders.sampler import EpochSampler, LengthGroupedSampler


def padding(lengths: list[int], sampler: EpochSampler) -> float:
    """Return the share of positions that hold nothing but padding, over five epochs."""
    real = padded = 0
    for epoch in range(5):
        sampler.set_position(epoch)
        for indices in sampler:
            batch = [lengths[index] - 1 for index in indices]
            real += sum(batch)
            padded += len(batch) * max(batch)
    return 1 - real / padded


def main() -> None:
    """Print a table for some lengths of batches and sequences."""
    print("| longest sequence | batch size | padding, shuffled | padding, grouped by length | positions saved |")
    print("|---|---|---|---|---|")
    for max_length in (128, 512):
        dataset = ProseLoaders(max_length=max_length, seed=0).train.dataset.wrapped  # type: ignore[union-attr]
        assert isinstance(dataset, TextDataset)
        lengths = dataset.lengths()
        for batch_size in (8, 32):
            shuffled = padding(lengths, EpochSampler(len(lengths), batch_size, shuffle=True))
            grouped = padding(lengths, LengthGroupedSampler(lengths, batch_size, shuffle=True))
            saved = 1 - (1 - shuffled) / (1 - grouped)
            print(f"| {max_length} | {batch_size} | {shuffled:.1%} | {grouped:.1%} | {saved:.1%} |")


if __name__ == "__main__":
    main()
