"""How long training stands still for a checkpoint of 500 MB: a plain `torch.save`, and the project's Saver.

python benchmarks/stall.py [--megabytes 500]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from handmade import config_for
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from trainer.trainer import Trainer


def trainer_of(megabytes: int, folder: Path) -> Trainer:
    """Make a trainer whose state, two numbers per weight in Adam included, takes so much."""
    layers = [nn.Linear(1000, 1000) for _ in range(max(1, megabytes // 12))]
    loader = Loader(InMemoryDataset(torch.randn(8, 1000), torch.randn(8, 1000)), 8)
    trainer = Trainer(config_for("MSELoss", {}), nn.Sequential(*layers), Loaders(loader, loader, loader))
    (folder / "checkpoints").mkdir()
    trainer.open_run(folder)
    trainer.train_step(next(iter(loader)))
    return trainer


def seconds(work: Callable[[], object]) -> float:
    """Measure a call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def longest_pause(during: Callable[[], object]) -> float:
    """Return the longest time for which another thread kept this one from running Python."""
    thread = threading.Thread(target=during)
    thread.start()
    longest, last = 0.0, time.perf_counter()
    while thread.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def main() -> None:
    """Measure, five times each in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the state (500)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        trainer = trainer_of(arguments.megabytes, folder)
        plain, stall, whole, pause = [], [], [], []
        for _ in range(arguments.rounds):
            state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
            plain.append(seconds(lambda state=state: torch.save(state, folder / "plain.pth")))
            begin = time.perf_counter()
            stall.append(seconds(lambda: trainer.saver.begin_save("last.pth")))
            pause.append(longest_pause(trainer.saver.wait))
            whole.append(time.perf_counter() - begin)
        size = (folder / "checkpoints" / "last.pth").stat().st_size / 1e6
        trainer.observers.close()
    print(f"a state of {size:.0f} MB, median of {arguments.rounds}\n")
    print("| | seconds |\n|---|---:|")
    print(f"| training stands still: plain `torch.save`, no checksum, not flushed | {statistics.median(plain):.2f} |")
    print(f"| training stands still: this project | {statistics.median(stall):.2f} |")
    print(f"| longest time that the writing thread then holds Python up | {statistics.median(pause):.2f} |")
    print(f"| until the file is on the disk, checksum and flush included | {statistics.median(whole):.2f} |")


if __name__ == "__main__":
    main()
