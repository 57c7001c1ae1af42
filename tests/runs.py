"""Runs of a baked project as real processes that are killed at will, and a comparison of what they leave to the bit."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from baking import ENVIRONMENT, SOURCE

__all__ = ["Tap"]

HERE = Path(__file__).parent
DROPPED = {"chaos.py": "logger", "noisy.py": "data_loaders"}
KILLED = -9
STOPPED = 1000 + getattr(signal, "SIGSTOP", 0)  # how the nursery reports a process that was not ended but stopped

# Small and quick, and still with everything that has state: an incomplete last batch, dropout, a schedule per step.
SMALL = [
    "model.args.channels=4",
    "trainer.epochs=3",
    "trainer.log_every=3",
    "trainer.save_every_steps=2",
    "loggers={tensorboard: true, chaos: true, image_figures: false, plots: false, report: false}",
]
ONE_CYCLE = "lr_scheduler={type: OneCycleLR, interval: step, args: {max_lr: 0.01, total_steps: 21}}"
DIGITS = [*SMALL, ONE_CYCLE, "name=digits", "data_loader.args.batch_size=200"]  # 6 batches of 200 and one of 57
NOISY = [*SMALL, ONE_CYCLE, "name=noisy", "data_loader={type: noisy.NoisyLoaders}"]  # 6 batches of 20, one of 10
WORKERS = [*NOISY, "data_loader.args.num_workers=2"]
# What else has state: momentum, a schedule that keeps a Counter, a metric that collects, clipping.
OTHER_PARTS = [
    *(word for word in DIGITS if not word.startswith("lr_scheduler")),
    "optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}",
    "lr_scheduler={type: MultiStepLR, args: {milestones: [1, 2]}}",
    "metrics=[{type: MulticlassF1Score, args: {num_classes: 10}}]",
    "trainer.monitor=min val_loss",
    "trainer.clip_grad_norm=0.5",
]
# Everything that watches: histograms every few steps, pictures every other epoch.
WATCHED = [*DIGITS, "loggers={tensorboard: {histograms_every: 4}, image_figures: {every: 14}, plots: true}"]

# In 16 bits, a batch in three pieces, and an average of the weights that is evaluated in their place.
HALF = [
    *DIGITS,
    "trainer.precision=bf16",
    "trainer.accumulate=3",
    "trainer.ema=0.9",
    "trainer.channels_last=true",
    "trainer.deterministic=true",
]
SCALED = [*OTHER_PARTS, "trainer.precision=fp16", "trainer.ema=0.5"]

# Windows has neither fork nor the signals of a terminal.
needs_posix = pytest.mark.skipif(os.name == "nt", reason="runs are started by fork and ended by POSIX signals")

if str(SOURCE) not in sys.path:
    sys.path.insert(0, str(SOURCE))  # the template folder is a working project

from dropped.chaos import Tap  # noqa: E402 - it imports from the project
from logger.metrics_file import TIMINGS  # noqa: E402
from trainer.checkpoint import load_checkpoint  # noqa: E402


@dataclass
class Result:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Process:
    """A process that was started and may still run."""

    pid: int
    stdout: Path
    stderr: Path

    def result(self, code: int) -> Result:
        """Collect what it said."""
        return Result(code, self.stdout.read_text(encoding="utf-8"), self.stderr.read_text(encoding="utf-8"))


@dataclass
class Reference:
    """What a run leaves that nobody interrupts: also how often each event happened, and how big a checkpoint is."""

    traces: dict[str, str]
    counts: dict[str, int]
    reads: list[int]
    bytes: int


class Lab:
    """A baked project with the test files dropped in, where runs are started, and stopped in unkind ways."""

    def __init__(self, project: Path, folder: Path, imports: tuple[str, ...] = ()) -> None:
        """Copy a project into `folder`, which also receives the runs; `imports` are done once for all of them."""
        self.project, self.imports = folder / "project", imports
        shutil.copytree(project, self.project)
        for name, package in DROPPED.items():
            shutil.copy(HERE / "dropped" / name, self.project / package / name)
        self.folder = folder
        self._references: dict[str, Reference] = {}
        self._nursery: subprocess.Popen[str] | None = None
        self._started = self._orders = 0

    def start(self, *words: str, chaos: str = "", script: str = "train.py", **env: str) -> Process:
        """Start `python train.py`, without waiting for it; `chaos` is explained in dropped/chaos.py."""
        self._started += 1
        files = [self.folder / f"{name}-{self._started}.txt" for name in ("out", "err")]
        for file in files:
            file.touch()  # the process may be dead before it can
        order = {"argv": [script, *words], "stdout": str(files[0]), "stderr": str(files[1])}
        order["env"] = {"CHAOS": chaos, **env}  # type: ignore[assignment]
        return Process(self._ask(order), *files)

    def wait(self, process: Process) -> Result:
        """Wait for the end of a process, or until it is stopped."""
        return process.result(self._ask({"wait": process.pid}))

    def train(self, *words: str, chaos: str = "", **env: str) -> Result:
        """Run `python train.py` to its end, however it ends."""
        return self.wait(self.start(*words, chaos=chaos, **env))

    def command(self, *words: str, chaos: str = "", **env: str) -> Result:
        """Do the same with a Python of its own, as a person would, in some seconds more."""
        done = subprocess.run(
            [sys.executable, "train.py", *words],
            cwd=self.project,
            env={**ENVIRONMENT, "CHAOS": chaos, **env},
            capture_output=True,
            encoding="utf-8",
            start_new_session=True,
            timeout=300,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def reference(self, words: list[str]) -> Reference:
        """Train a configuration without interruption, once, and return what that leaves."""
        key = " ".join(words)
        if key not in self._references:
            folder = self.folder / f"reference-{len(self._references)}"
            counts, reads = folder.with_suffix(".counts"), folder.with_suffix(".reads")
            experiment = Experiment(self, folder, words)
            result = experiment.begin(CHAOS_COUNTS=str(counts), READS=str(reads))
            assert result.code == 0, result.err
            read = [int(line) for line in reads.read_text().split()] if reads.exists() else []
            size = (experiment.run / "checkpoints" / "last.pth").stat().st_size
            traces = traces_of(experiment.run)
            self._references[key] = Reference(traces, json.loads(counts.read_text()), read, size)
        return self._references[key]

    def close(self) -> None:
        """End the nursery."""
        if self._nursery:
            assert self._nursery.stdin
            self._nursery.stdin.close()
            self._nursery.wait(timeout=60)

    def _ask(self, order: dict[str, Any]) -> int:
        if self._nursery is None:
            self._nursery = subprocess.Popen(
                [sys.executable, str(HERE / "nursery.py"), *self.imports],
                cwd=self.project,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._read()
        assert self._nursery.stdin
        self._orders += 1
        self._nursery.stdin.write(json.dumps({**order, "number": self._orders}) + "\n")
        self._nursery.stdin.flush()
        number, answer = self._read().split()
        assert int(number) == self._orders, "the answer to another order"
        return int(answer)

    def _read(self) -> str:
        assert self._nursery
        assert self._nursery.stdout
        line = self._nursery.stdout.readline().strip()
        assert line, "the nursery died"
        return line


@dataclass
class Experiment:
    """One configuration, trained again and again under `folder`, which starts out empty."""

    lab: Lab
    folder: Path
    words: list[str] = field(default_factory=lambda: DIGITS)

    @property
    def runs(self) -> list[Path]:
        """The folders of all runs, in the order of their names."""
        return sorted(checkpoints.parent for checkpoints in self.folder.glob("*/*/checkpoints"))

    @property
    def run(self) -> Path:
        """The one run's folder."""
        (run,) = self.runs
        return run

    def begin(self, chaos: str = "", **env: str) -> Result:
        """Start a run, and train until its end or until something happens."""
        return self.lab.train(*self.arguments(), chaos=chaos, **env)

    def arguments(self) -> list[str]:
        """Return the command line of a new run."""
        return ["-c", "config.json", *self.words, f"trainer.save_dir={self.folder}"]

    def resume(self, chaos: str = "", **env: str) -> Result:
        """Go on with the run in its folder."""
        return self.lab.train("-r", str(self.run), chaos=chaos, **env)


_labs: dict[Path, Lab] = {}


def shared_lab(project: Path, folder: Path, imports: tuple[str, ...] = ()) -> Lab:
    """Return the one lab of this test process, which ends with it."""
    if project not in _labs:
        folder.mkdir()
        _labs[project] = Lab(project, folder, imports)
        atexit.register(_labs[project].close)
    return _labs[project]


def fingerprints(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Describe nested values so that two descriptions are equal only if every bit is."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from fingerprints(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        yield path, f"{len(value)} entries"
        for number, entry in enumerate(value):
            yield from fingerprints(entry, f"{path}[{number}]")
    elif isinstance(value, torch.Tensor):
        yield path, f"{value.dtype} {tuple(value.shape)} {value.contiguous().view(-1).view(torch.uint8).tolist()}"
    else:
        yield path, value.hex() if isinstance(value, float) else repr(value)


def content_of(file: Path) -> dict[str, str]:
    """Describe a checkpoint as any program may read it, without its config and the lengths of log files."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    if "shards" in state:
        state = load_checkpoint(file)
    del state["loggers"], state["config"]
    return dict(fingerprints(state, file.stem))


def traces_of(run: Path) -> dict[str, str]:
    """Describe what a run has left: its last and best checkpoint, its metrics, what TensorBoard shows."""
    files = [run / "checkpoints" / name for name in ("last.pth", "best.pth")]
    traces = {key: value for file in files if file.exists() for key, value in content_of(file).items()}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["timing"]
    return traces | dict(fingerprints({"metrics": lines, "tensorboard": events_of(run)}))


def events_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a run, and see that nothing is in its files twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    shown = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "histograms": 0}).Reload()
    tags = [tag for tag in shown.Tags()["scalars"] if tag.rpartition("/")[2] not in TIMINGS]
    events = {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in sorted(tags)}
    for tag in shown.Tags()["images"]:
        events[tag] = [(event.step, zlib.crc32(event.encoded_image_string)) for event in shown.Images(tag)]
    for tag in shown.Tags()["histograms"]:
        events[tag] = [(event.step, event.histogram_value.sum_squares) for event in shown.Histograms(tag)]
    written = [
        (value.tag, event.step)
        for file in run.glob("events.out.tfevents.*")
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert len(written) == len(set(written)), "an event is in the files twice"
    assert {(tag, step) for tag, entries in events.items() for step, _ in entries} <= set(written)
    return events


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Name what is not the same in two runs' traces."""
    return [path for path in sorted({*one, *other}) if one.get(path) != other.get(path)]
