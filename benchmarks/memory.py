"""Memory and time against the size of the data: training on memory-mapped token files of 20 MB, 200 MB and 2 GB.

    python benchmarks/memory.py [--steps 300] [--sizes 20 200 2000]

For each size the project's own Trainer runs in a process of its own, with two workers. What it prints is anonymous
resident memory (`Anonymous` of /proc/<pid>/smaps_rollup, thus Linux alone): what belongs to a process itself. Pages of
the file are not in it, as the system keeps them for all and takes them back when memory is wanted. Then the time to
the first batch of a run that is resumed at some place of an epoch, with fresh workers. The files are deleted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.token_file import TokenFileLoaders, header_of
from model.transformer import Transformer
from trainer.trainer import Trainer
from utils.config import Config

CHUNK = 10_000_000


def write_tokens(path: Path, megabytes: int) -> None:
    """Write a file of random tokens, a chunk at a time."""
    left = count = megabytes * 1_000_000 // 2
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        while left:
            number = min(left, CHUNK)
            file.write(generator.integers(0, 257, number, np.uint16).astype("<u2").tobytes())
            left -= number
    header = {"dtype": "uint16", "vocabulary": 257, "num_tokens": count, "bytes_per_token": 1.0}
    header_of(path).write_text(json.dumps(header), encoding="utf-8")


def anonymous(pid: int) -> float:
    """Return the anonymous resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("this system does not say")


def trainer_for(folder: str) -> Trainer:
    """Make the project's trainer for a folder of token files."""
    unused = {"type": "unused"}  # the parts are handed to the Trainer as they are
    config = Config.model_validate(
        {
            "name": "memory",
            "seed": 0,
            "data_loader": unused,
            "model": unused,
            "loss": {"type": "token_cross_entropy"},
            "metrics": [],
            "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}},
            "trainer": {"epochs": 1, "device": "cpu"},
        }
    )
    loaders = TokenFileLoaders(folder, batch_size=8, length=128, num_workers=2, seed=0)
    return Trainer(config, Transformer(max_length=128, width=32, depth=1), loaders)


def measure(folder: str, steps: int) -> None:
    """Train for some steps and print what that took, as JSON."""
    torch.set_num_threads(1)
    trainer = trainer_for(folder)
    loader = trainer.loaders.train
    trainer.model.train()
    loader.set_position(0)
    batches = iter(loader)
    for _ in range(steps):
        trainer.count(trainer.meter, trainer.train_step(next(batches)))
    trainer.meter.flush()
    workers = [worker.pid for worker in batches._workers]
    memory = [anonymous(pid) for pid in ("self", *workers)]  # type: ignore[arg-type]
    loader.close()
    seconds = []
    for share in (0.0, 0.5, 0.99):
        loader.set_position(0, int(share * len(loader)))
        start = time.perf_counter()
        next(iter(loader))
        seconds.append(time.perf_counter() - start)
        loader.close()
    print(json.dumps({"samples": loader.num_samples, "memory": memory, "seconds": seconds}))


def main() -> None:
    """Measure all sizes, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps (300)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 200, 2000], metavar="MB", help="(20 200 2000)")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.steps)
        return
    print(f"torch {torch.__version__}, {arguments.steps} steps, two workers\n")
    print("| token file | windows | main process | worker 1 | worker 2 | first batch at 0 % | at 50 % | at 99 % |")
    print("|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for name, megabytes in (("train", size), ("valid", 1), ("test", 1)):
                write_tokens(Path(folder) / f"{name}.bin", megabytes)
            command = [sys.executable, __file__, "--measure", folder, "--steps", str(arguments.steps)]
            result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        cells = [f"{size} MB", f"{result['samples']:,}", *(f"{value:.1f} MB" for value in result["memory"])]
        cells += [f"{1e3 * value:.0f} ms" for value in result["seconds"]]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
