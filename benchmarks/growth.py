"""What grows: time of a step and memory, as the data, the network, the epochs and the checkpoints that are kept grow.

    python benchmarks/growth.py [data] [network] [epochs] [checkpoints]

Every row is measured in a process of its own. Memory is resident memory (Linux alone).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from handmade import config_for
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.dataset import BatchDataset
from data_loaders.loader import Loader, Loaders
from trainer.trainer import Trainer
from trainer.trials import endless

BATCH = 64


class Computed(BatchDataset):
    """As many samples as one likes, computed from their indices, so that they take no memory themselves."""

    def __init__(self, samples: int, features: int) -> None:
        """Pretend to hold so many."""
        self.samples, self.features = samples, features

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.samples

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs `(n, features)` and targets `(n,)`."""
        numbers = torch.as_tensor(indices)
        return (numbers[:, None] % 97 / 97).expand(-1, self.features).contiguous(), numbers % 10


def make(folder: Path, samples: int, width: int = 64, **settings: Any) -> Trainer:
    """Make the project's trainer, with TensorBoard and a metric."""
    sections = {"metrics": [{"type": "accuracy"}], "loggers": {"tensorboard": True}}
    loader = Loader(Computed(samples, width), BATCH, seed=0, shuffle=True)
    few = Loader(Computed(BATCH, width), BATCH)
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    (folder / "checkpoints").mkdir()
    config = config_for("cross_entropy", settings, lr=1e-4, **sections)
    trainer = Trainer(config, model, Loaders(loader, few, few))
    trainer.open_run(folder)
    return trainer


def resident() -> float:
    """Return the memory of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


def step_times(trainer: Trainer, steps: int) -> list[float]:
    """Take training steps as the loop does, and return the µs of each."""
    trainer.observers.on_start(trainer)
    trainer.freezing.train_mode()
    times, batches = [], endless(trainer.loaders.train)
    for _ in range(steps):
        begin = time.perf_counter()
        trainer.count(trainer.meter, *trainer.train_step(trainer.move(next(batches))))
        trainer.after_step()
        times.append(1e6 * (time.perf_counter() - begin))
    trainer.observers.close()
    return times


def of_data(folder: Path, samples: int) -> str:
    """Measure steps on so many samples, the first, which makes the epoch's order, apart."""
    before = resident()
    first, *times = step_times(make(folder, samples), 1000)
    return f"{samples:,} | {statistics.median(times):.0f} µs | {first / 1000:.1f} ms | {resident() - before:.0f} MB"


def of_network(folder: Path, width: int) -> str:
    """Measure steps of a network of some width, with the Trainer and by hand, in turns."""
    trainer = make(folder, 100_000, width)
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-4, fused=True)
    batch = next(iter(trainer.loaders.train))

    def by_hand() -> None:
        inputs, targets = batch
        optimizer.zero_grad()
        nn.functional.cross_entropy(trainer.model(inputs), targets).backward()
        optimizer.step()

    def ours() -> None:
        trainer.count(trainer.meter, *trainer.train_step(batch))
        trainer.meter.flush()

    times: dict[str, list[float]] = {"by hand": [], "ours": []}
    for _ in range(60):
        for name, step in (("by hand", by_hand), ("ours", ours)):
            begin = time.perf_counter()
            for _ in range(5):
                step()
            times[name].append(1e6 * (time.perf_counter() - begin) / 5)
    hand, own = (statistics.median(values) for values in times.values())
    weights = sum(parameter.numel() for parameter in trainer.model.parameters())
    return f"{weights:,} | {hand:.0f} µs | {own:.0f} µs | {own / hand:.2f} | {resident():.0f} MB"


def of_epochs(folder: Path, epochs: int) -> str:
    """Train for so many epochs of one step."""
    begin = time.perf_counter()
    trainer = make(folder, BATCH, 16, epochs=epochs, log_every=1)
    before = resident()
    trainer.train()
    seconds = time.perf_counter() - begin
    size = {path.name.split(".")[0]: path.stat().st_size / 1000 for path in folder.iterdir() if path.is_file()}
    checkpoint = (folder / "checkpoints" / "last.pth").stat().st_size / 1000
    return (
        f"{epochs:,} | {1000 * seconds / epochs:.1f} ms | {resident() - before:.0f} MB | {checkpoint:.0f} kB | "
        f"{size['metrics'] / epochs:.2f} kB | {size['events'] / epochs:.2f} kB"
    )


def of_checkpoints(folder: Path, kept: int) -> str:
    """Save at the end of each epoch, with so many checkpoints kept."""
    trainer = make(folder, BATCH, 256, epochs=2 * kept + 20, keep_last=kept, monitor=None)
    before, times = resident(), []
    real = trainer.end_epoch

    def timed(metrics: dict[str, float]) -> None:
        begin = time.perf_counter()
        real(metrics)
        trainer.saver.wait()
        times.append(1000 * (time.perf_counter() - begin))

    trainer.end_epoch = timed  # type: ignore[method-assign]
    trainer.train()
    files = len(list((folder / "checkpoints").glob("epoch_*.pth")))
    return f"{files} | {statistics.median(times[-20:]):.1f} ms | {resident() - before:.0f} MB"


TABLES: dict[str, tuple[Any, Sequence[int], str]] = {
    "data": (of_data, [10**power for power in range(3, 9)], "samples | a step | the first step | memory added"),
    "network": (of_network, [32, 128, 512, 2048], "weights | by hand, fused | this project | ratio | memory"),
    "epochs": (
        of_epochs,
        [10, 100, 1000, 10_000],
        "epochs | an epoch | memory added | checkpoint | metrics.jsonl per epoch | event file per epoch",
    ),
    "checkpoints": (of_checkpoints, [1, 10, 100], "checkpoints kept | end of an epoch, save included | memory added"),
}


def measure(table: str, size: int) -> None:
    """Measure one row of a table, in a folder that is deleted afterwards."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(f"| {TABLES[table][0](Path(folder), size)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"which of {', '.join(TABLES)} (all)")
    arguments = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    for table in arguments.tables or TABLES:
        _, sizes, header = TABLES[table]
        print(f"\n| {header} |\n|{'---:|' * (header.count('|') + 1)}", flush=True)
        for size in sizes:
            process = fresh.Process(target=measure, args=(table, size))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
