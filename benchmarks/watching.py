"""What watching costs a training step: all that the default config watches with, against none of it.

    python benchmarks/watching.py [--blocks 40]

The project's own Trainer trains the default network on the digits, in one thread. Two trainers take turns, step by
step, one of them with TensorBoard, the figures of the task and `plots/`. Processor time is measured, summed over a log
interval (50 steps and what is due after them), and the median over the intervals is reported, so that a machine that
is busy with other things does not favour one of them. What comes less often (histograms, pictures) would vanish from
a median: it is timed by itself and spread over its interval.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from trainer.build import build_trainer
from trainer.trainer import Trainer
from utils.config_files import load_config

CONFIG = Path(__file__).parents[1] / "{{cookiecutter.project_name}}" / "configs" / "image_classification.json"


def trainer_for(folder: Path, loggers: dict[str, Any]) -> Trainer:
    """Make a trainer of the default config in a run folder of its own."""
    words = ["trainer.device=cpu", "trainer.save_every_epochs=null", "trainer.epochs=1000"]
    config = load_config([CONFIG], words).model_copy(update={"loggers": loggers})
    trainer = build_trainer(config)
    (folder / "checkpoints").mkdir(parents=True)
    trainer.open_run(folder)
    trainer.observers.on_start(trainer)
    return trainer


def batches(trainer: Trainer) -> Iterator[Any]:
    """Return batch after batch, epoch after epoch, as training sees them."""
    loader = trainer.loaders.train

    def epoch(number: int) -> Iterator[Any]:
        loader.set_position(number)
        return trainer.stopwatch.fetch(loader)

    return chain.from_iterable(map(epoch, count()))


def seconds(work: Callable[[], Any]) -> float:
    """Measure the processor time of all threads, those of the writers included."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="turns of each")
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        loggers = {"tensorboard": {"histograms_every": None}, "image_figures": True, "plots": True}
        watched = trainer_for(Path(folder) / "watched", loggers)
        alone = trainer_for(Path(folder) / "alone", {})
        alone.observers.members.clear()
        alone.health = dict  # type: ignore[method-assign,assignment]
        every = alone.config.trainer.log_every
        streams = {id(trainer): batches(trainer) for trainer in (watched, alone)}

        def step(trainer: Trainer) -> None:
            trainer.count(trainer.meter, *trainer.train_step(next(streams[id(trainer)])))
            trainer.after_step()

        rows = []
        for _ in range(blocks + 1):
            row = [0.0, 0.0]
            for number in range(every):
                for which in (0, 1) if number % 2 else (1, 0):
                    row[which] += seconds(lambda which=which: step((alone, watched)[which]))  # type: ignore[misc]
            rows.append(row)
        bare = statistics.median(row[0] for row in rows[1:]) / every
        seen = bare * statistics.median(row[1] / row[0] for row in rows[1:])
        print(f"a step, watched by nothing {1e6 * bare:16.0f} µs")
        print(f"… by everything but what follows {1e6 * (seen - bare):+10.0f} µs {seen / bare - 1:+8.1%}")

        def report(what: str, costs: list[float], steps: int) -> None:
            cost = statistics.median(costs)
            spread = f"{1e6 * cost / steps:+10.0f} µs {cost / steps / bare:+8.1%}"
            print(f"{what:<32} {spread}   ({1e3 * cost:.1f} ms every {steps} steps)")

        board: Any = watched.observers.members["tensorboard"]
        board.histograms_every = 200
        report("… by histograms", [seconds(lambda: board.on_step(200, {})) for _ in range(9)][2:], 200)
        watched.progress.epoch = 49
        costs = [seconds(lambda: evaluate(watched)) - seconds(lambda: evaluate(alone)) for _ in range(7)]
        report("… by pictures", costs[2:], 50 * len(watched.loaders.train))


def evaluate(trainer: Trainer) -> None:
    """Evaluate, and let the observers know."""
    metrics = trainer.evaluate(trainer.loaders.valid, "val") | {"lr": 0.0, "seconds": 0.0}
    trainer.observers.on_evaluation(trainer.progress.step, trainer.progress.epoch + 1, metrics, False)


if __name__ == "__main__":
    main()
