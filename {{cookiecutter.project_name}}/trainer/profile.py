"""`train.py --profile`: where the time of a training step goes, and whether data loading holds it up."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from logger.console import log
from trainer.trainer import Trainer
from trainer.trials import endless

WARM_UP, STEPS, ROUNDS, TRACED = 5, 6, 6, 5
DATA, COPY, FORWARD, BACKWARD, OPTIMIZER, METRICS = (
    "waiting for data", "copying to the device", "forward", "loss and backward", "zero_grad and optimizer", "metrics",
)  # fmt: skip
BOTTLENECK = 0.2  # share of the time that faster data would save


def run(trainer: Trainer, _chosen: bool) -> None:
    """Measure some steps, print where their time went, and write a trace."""
    batches = endless(trainer.loaders.train)
    train(trainer, islice(batches, WARM_UP))
    # In turns, and in the middle of all: what else the machine does must not decide.
    rounds = [measure_round(trainer, batches) for _ in range(ROUNDS)]
    step, saved = (median(column) for column in zip(*rounds, strict=True))
    parts = measure_parts(trainer, batches)

    log.info("a training step takes %.2f ms on %s:", 1e3 * step, trainer.device)
    total = sum(parts.values())
    for name, value in parts.items():
        log.info("  %-24s %8.2f ms  %3.0f %%", name, 1e3 * value, 100 * value / total)
    saved = max(0.0, saved)
    if saved > BOTTLENECK:
        log.info("data loading is the bottleneck: with data at hand, a step would take %.0f %% less", 100 * saved)
        log.info("what helps: num_workers for the Loader, less work per sample, or an InMemoryDataset")
    else:
        log.info("data loading is not the bottleneck: with data at hand, a step would take %.0f %% less", 100 * saved)
    trace(trainer, batches)


def train(trainer: Trainer, batches: Iterable[Any]) -> None:
    """Take a training step on each batch, as the loop does."""
    for batch in batches:
        trainer.count(trainer.meter, *trainer.train_step(trainer.move(batch)))
    trainer.guard.check(trainer.meter.flush())  # this waits for the device


def measure_round(trainer: Trainer, batches: Iterator[Any]) -> tuple[float, float]:
    """Take some steps on batches as they come, and once more on the same ones, which are at hand then.

    Returns:
        Seconds that a step took, and the share of them that the second time saved. More than what passed in waiting
        for data it cannot be, even if the machine was busy with something else the first time.
    """
    held: list[Any] = []
    waited = 0.0

    def come() -> Iterator[Any]:
        nonlocal waited
        for _ in range(STEPS):
            begin = time.perf_counter()
            held.append(next(batches))
            waited += time.perf_counter() - begin
            yield held[-1]

    begin = time.perf_counter()
    train(trainer, come())
    middle = time.perf_counter()
    train(trainer, held)
    end = time.perf_counter()
    first, second = middle - begin, end - middle
    return first / STEPS, min(first - second, waited) / first


def measure_parts(trainer: Trainer, batches: Iterator[Any]) -> dict[str, float]:
    """Measure the parts of a step one after the other: the device is waited for after each."""
    parts = dict.fromkeys((DATA, COPY, FORWARD, BACKWARD, OPTIMIZER, METRICS), 0.0)
    since = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal since
        if trainer.device.type != "cpu":
            getattr(torch, trainer.device.type).synchronize()
        now = time.perf_counter()
        parts[name] += (now - since) / (ROUNDS * STEPS)
        since = now

    with laps(trainer, lap):
        for _ in range(ROUNDS * STEPS):
            batch = next(batches)
            lap(DATA)
            batch = trainer.move(batch)
            lap(COPY)
            results = trainer.train_step(batch)
            lap(OPTIMIZER)
            trainer.count(trainer.meter, *results)
            lap(METRICS)
    return parts


@contextmanager
def laps(trainer: Trainer, lap: Callable[[str], None]) -> Iterator[None]:
    """Call `lap` at the borders within a step, which hooks of model and optimizer know."""
    handles = [
        trainer.model.register_forward_pre_hook(lambda *_: lap(OPTIMIZER)),
        trainer.model.register_forward_hook(lambda *_: lap(FORWARD)),
        trainer.optimizer.register_step_pre_hook(lambda *_: lap(BACKWARD)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace(trainer: Trainer, batches: Iterator[Any]) -> None:
    """Record some steps with PyTorch's profiler: print its heaviest operations, and write all to a file."""
    on_device = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the stages that it goes through are not news
    with profile(activities=activities) as profiler:
        train(trainer, islice(batches, TRACED))
    time_of = "self_device_time_total" if on_device else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: getattr(event, time_of), reverse=True)
    total = sum(getattr(event, time_of) for event in events) or 1.0
    log.info("the heaviest operations:")
    for event in events[:8]:
        value = getattr(event, time_of)
        log.info(
            "  %-44s %5d × %8.2f ms  %3.0f %%",
            event.key[:44],
            event.count / TRACED,
            1e-3 * value / TRACED,
            100 * value / total,
        )
    file = Path(trainer.config.trainer.save_dir) / f"{trainer.config.name}-profile.json.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(file))
    log.info("written to %s: open it at https://ui.perfetto.dev", file)
