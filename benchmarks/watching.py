"""What watching costs a training step: all loggers at their default intervals, against none.

    python benchmarks/watching.py [--epochs 200]

The project's own Trainer trains the default network on the digits, in one thread. Four of them take turns, epoch by
epoch: two that nobody watches, to see how far the measurement itself scatters, one with the loggers of the default
config, and one with every logger that there is, W&B (offline) and the statistics of layers too. What is compared is
processor time, of all threads and with all that comes now and then (histograms, pictures), so that a machine that is
busy with other things does not favour one of them. W&B writes its files in a process of its own, whose time is counted
too, and given in a row of its own (Linux alone). What happens once in a run is left out: the start, and the loading of
matplotlib before the first pictures.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from logger.observer import Observer
from trainer.build import build_trainer
from trainer.trainer import Trainer
from utils.config_files import load_config

CONFIG = Path(__file__).parents[1] / "{{cookiecutter.project_name}}" / "configs" / "image_classification.json"
EVERYTHING = {"layer_watch": True, "wandb": {"mode": "offline"} if find_spec("wandb") else False}


def trainer_for(folder: Path, more: dict[str, Any] | None) -> Trainer:
    """Make a trainer of the default config in a run folder of its own; with None nobody watches it."""
    words = ["trainer.device=cpu", "trainer.save_every_epochs=null", "trainer.monitor=null", "trainer.epochs=100000"]
    config = load_config([CONFIG], [*words, "lr_scheduler=null"])
    config = config.model_copy(update={"loggers": {} if more is None else config.loggers | more})
    trainer = build_trainer(config)
    (folder / "checkpoints").mkdir(parents=True)
    trainer.open_run(folder)
    if more is None:
        trainer.observers.members.clear()
        trainer.health = dict  # type: ignore[method-assign,assignment]
    # The two epochs to warm up shall end with pictures, which load matplotlib.
    trainer.progress.step = 98 * len(trainer.loaders.train)
    trainer.observers.on_start(trainer)
    return trainer


def seconds(work: Callable[[], Any]) -> float:
    """Measure the processor time of all threads, those of the writers included."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def of_other_processes() -> float:
    """Return the processor time so far of the processes that this one has started, and those that they have."""
    parents, ticks = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            stat = file.read_text(encoding="utf-8").rpartition(")")[2].split()
            number = int(file.parent.name)
            parents[number], ticks[number] = int(stat[1]), int(stat[11]) + int(stat[12])

    def is_ours(number: int) -> bool:
        parent = parents.get(number, 0)
        return parent == os.getpid() or (parent > 1 and is_ours(parent))

    return sum(ticks[number] for number in ticks if is_ours(number)) / os.sysconf("SC_CLK_TCK")


def epoch(trainer: Trainer) -> None:
    """Train and evaluate, as the loop does."""
    trainer.train_epoch()
    trainer.end_epoch(trainer.evaluate(trainer.loaders.valid, "val"))


def count_time(name: str, observer: Observer, spent: dict[str, float]) -> None:
    """Have the time counted that an observer's methods take; those that figures call others for, with the figures."""

    def counted(work: Callable[..., None]) -> Callable[..., None]:
        def method(*arguments: Any) -> None:
            begin = time.thread_time()
            work(*arguments)
            spent[name] = spent.get(name, 0.0) + time.thread_time() - begin

        return method

    for method in ("on_step", "on_evaluation_batch", "on_evaluation"):
        setattr(observer, method, counted(getattr(observer, method)))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="turns of each; pictures come every hundred")
    epochs = parser.parse_args().epochs
    os.environ["WANDB_MODE"] = "offline"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        asked = (("nothing", None), ("nothing again", None), ("the default loggers", {}), ("every logger", EVERYTHING))
        trainers = {name: trainer_for(Path(folder) / name, more) for name, more in asked}
        spent: dict[str, float] = {}
        for name, observer in trainers["every logger"].observers.members.items():
            count_time(name, observer, spent)
        rows: list[dict[str, float]] = []
        for turn in range(epochs + 2):
            order = random.sample(list(trainers), len(trainers))
            rows.append({name: seconds(lambda name=name: epoch(trainers[name])) for name in order})  # type: ignore[misc]
            if turn == 1:  # the first two are to warm up
                rows.clear()
                spent.clear()
                others = of_other_processes()
        steps = epochs * len(trainers["nothing"].loaders.train)
        others = of_other_processes() - others
        for row in rows:
            row["every logger"] += others / epochs
        spent["other processes"] = others
        bare = sum(row["nothing"] for row in rows)
        for name in trainers:
            total = sum(row[name] for row in rows)
            middle = statistics.median(row[name] / row["nothing"] for row in rows) - 1
            print(f"{name:<20} {1e6 * total / steps:6.0f} µs a step {total / bare - 1:+6.1%}   median {middle:+.1%}")
        for name, value in spent.items():
            print(f"    {name:<16} {1e6 * value / steps:6.0f} µs a step {value / bare:+6.1%}")
        for trainer in trainers.values():
            trainer.observers.close()


if __name__ == "__main__":
    main()
