"""Memory and time against the size of the data, for token files and for Hugging Face data sets.

    python benchmarks/memory.py [--source tokens mapped streamed] [--sizes 20 200 2000] [--steps 300]

For each size the project's own Trainer runs in a process of its own, with two workers. What it prints is anonymous
resident memory (`Anonymous` of /proc/<pid>/smaps_rollup, thus Linux alone): what belongs to a process itself. Pages of
files are not in it, as the system keeps them for all and takes them back when memory is wanted.

Then, in one process: how long it takes to open the data, to load a batch of samples from anywhere (of a stream that is
not possible), and to come to the first batch of a run that goes on at some place of its first epoch. These are medians
of many turns, in which the places alternate; the files are in the system's cache. They are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from handmade import config_for

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from big_files import write_table, write_tokens
from data_loaders.hf_blocks import StreamedRows
from data_loaders.hf_source import Source
from data_loaders.hf_text import HFTextLoaders
from data_loaders.loader import Loader, Loaders
from data_loaders.token_file import TokenFileLoaders
from model.transformer import Transformer
from trainer.trainer import Trainer

PLACES, TURNS, LENGTH = (0.0, 0.5, 0.99), 11, 128


def open_loaders(source: str, folder: str, workers: int) -> Loaders:
    """Open the data that lies in a folder."""
    if source == "tokens":
        return TokenFileLoaders(folder, batch_size=8, length=LENGTH, num_workers=workers, seed=0)
    # An epoch of a stream is about as long as the file.
    samples = Path(folder, "train.parquet").stat().st_size // LENGTH
    stream = {"samples_per_epoch": samples} if source == "streamed" else None
    origin = Source.model_validate({"files": f"{folder}/train.parquet", "stream": stream})
    return HFTextLoaders(origin, batch_size=8, max_length=LENGTH, num_workers=workers, seed=0)


def anonymous(pid: int | str) -> float:
    """Return the anonymous resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("this system does not say")


def trainer_for(loaders: Loaders) -> Trainer:
    """Make the project's trainer for a source of tokens."""
    config = config_for("token_cross_entropy", {})
    return Trainer(config, Transformer(max_length=LENGTH, width=32, depth=1), loaders)


def memory_in_training(loaders: Loaders, steps: int) -> list[float]:
    """Train for some steps, and return the memory of the main process and of each worker in MB."""
    trainer = trainer_for(loaders)
    loader = trainer.loaders.train
    trainer.model.train()
    loader.set_position(0)
    batches = iter(loader)
    for _ in range(steps):
        trainer.count(trainer.meter, *trainer.train_step(next(batches)))
    trainer.meter.flush()
    workers = [worker.pid for worker in loader._iterator._workers]  # type: ignore[union-attr]
    memory = [anonymous(pid) for pid in ("self", *workers)]
    loader.close()
    return memory


def seconds(action: Any) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def checkpointed(loader: Loader, batch: int) -> dict[str, Any]:
    """Return what a checkpoint would hold of the data, if a run was stopped before this batch."""
    if isinstance(loader.dataset, StreamedRows):
        block = loader.dataset.block
        loader.dataset._at(batch * loader.batch_sampler.batch_size // block * block)
    return loader.state_dict()


def times_to_first_batch(loader: Loader) -> list[float]:
    """Return how long a loader takes to go on at each place, from a checkpoint to a batch."""
    batches = [int(place * (len(loader) - 1)) for place in PLACES]
    states = [checkpointed(loader, batch) for batch in batches]
    times: list[list[float]] = []

    def go_on(state: dict[str, Any], batch: int) -> None:
        loader.load_state_dict(state)
        loader.set_position(0, batch)
        next(iter(loader))

    for _ in range(TURNS):
        times.append([seconds(lambda place=place: go_on(*place)) for place in zip(states, batches, strict=True)])
    return [median(column) for column in zip(*times[1:], strict=True)]  # the first turn warms up


def time_of_any_batch(loader: Loader) -> float | None:
    """Return how long it takes to load samples from anywhere; None where there is no such thing."""
    if isinstance(loader.dataset, StreamedRows):
        return None
    draws = torch.randint(len(loader.dataset), (200, 8), generator=torch.Generator().manual_seed(0)).tolist()
    return median([seconds(lambda indices=indices: loader.load(indices)) for indices in draws])


def measure(source: str, folder: str, steps: int) -> None:
    """Measure one source and print what came out, as JSON."""
    torch.set_num_threads(1)
    loaders = open_loaders(source, folder, workers=2)
    memory = memory_in_training(loaders, steps)
    opening = median([seconds(lambda: open_loaders(source, folder, workers=0)) for _ in range(3)])
    loader = open_loaders(source, folder, workers=0).train
    times = [time_of_any_batch(loader), *times_to_first_batch(loader)]
    print(json.dumps({"samples": loader.num_samples, "memory": memory, "opening": opening, "times": times}))


def row(source: str, megabytes: int, steps: int) -> str:
    """Write a file, measure it in a process of its own, and return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        write = write_tokens if source == "tokens" else write_table
        for name, size in (("train", megabytes), ("valid", 1), ("test", 1)):
            write(Path(folder), name, size)
        command = [sys.executable, __file__, "--steps", str(steps), "--source", source, "--measure", folder]
        environment = {**os.environ, "HF_HOME": f"{folder}/cache"}
        if source == "mapped":  # brings it into the library's cache, which is done once for each file
            subprocess.run([*command, "--steps", "1"], capture_output=True, check=True, env=environment)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        result = json.loads(done.stdout.splitlines()[-1])
    cells = [source, f"{megabytes} MB", f"{result['samples']:,}", *(f"{value:.1f} MB" for value in result["memory"])]
    cells += [f"{result['opening']:.2f} s", *("–" if t is None else f"{1e3 * t:.2f} ms" for t in result["times"])]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure all sizes of all sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", nargs="+", default=["tokens", "mapped", "streamed"], help="(all three)")
    parser.add_argument("--steps", type=int, default=300, help="training steps (300)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 200, 2000], metavar="MB", help="(20 200 2000)")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.source[0], arguments.measure, arguments.steps)
        return
    print(f"torch {torch.__version__}, {arguments.steps} steps, two workers\n")
    columns = ["source", "size", "samples", "main process", "worker 1", "worker 2", "to open", "any batch"]
    columns += [f"first batch at {place:.0%}" for place in PLACES]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for source in arguments.source:
        for size in arguments.sizes:
            print(row(source, size, arguments.steps), flush=True)


if __name__ == "__main__":
    main()
