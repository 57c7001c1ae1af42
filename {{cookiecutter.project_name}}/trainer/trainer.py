"""The training loop."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_loaders.loader import Loader, Loaders
from logger.build import build_observers
from logger.console import few, progress_bar
from logger.observer import Observers
from trainer.averaging import WeightAverage
from trainer.closing import farewell
from trainer.criterion import Criterion, Metrics
from trainer.freezing import Freezing
from trainer.guard import NonFiniteGuard
from trainer.interrupt import InterruptHandler
from trainer.memory import memory_explained
from trainer.meter import Meter, Weighted
from trainer.monitor import Monitor
from trainer.optimization import Gradients, Schedule, build_optimizer
from trainer.parallel import build_parallel
from trainer.parameter_groups import describe_groups, parameter_groups
from trainer.precision import Precision
from trainer.progress import Progress
from trainer.run_folder import LAST
from trainer.saving import Saver
from trainer.scaler import Scaler
from trainer.stopwatch import Stopwatch
from utils.config import Config
from utils.device import choose_device, move, not_finite, peak_memory
from utils.errors import Diverged, Interrupted
from utils.seeding import RandomStates, random_state_kept


@dataclass
class StepResult:
    """What a step on a batch came to.

    Attributes:
        losses: one value per sample, with weights or without, or the mean of the batch.
        output: what the model returned.
        targets: what it should have returned; its length is the number of samples.
    """

    losses: torch.Tensor | Weighted
    output: Any
    targets: Any


class Trainer:
    """Trains a model; `train_step` is the method to override for anything out of the ordinary."""

    def __init__(self, config: Config, model: nn.Module, loaders: Loaders) -> None:
        """Build everything that has state, and touch no file.

        Raises:
            UserError: the config asks for something that is not there, such as a device.
        """
        self.config = config
        self.loaders = loaders
        settings = config.trainer
        self.device = choose_device(settings.device)
        self.precision = Precision(settings, self.device)
        self.parallel = build_parallel(settings, self.device)

        self.model = self.parallel.prepare(model)
        self.loss = Criterion(config, self.device)
        self.metrics = Metrics(config, self.device)
        self.freezing = Freezing(config, self.model)
        self.optimizer = build_optimizer(config, parameter_groups(config, self.model, self.freezing))
        self.gradients = Gradients(self.model, settings.clip_grad_norm)
        self.schedule = Schedule(config, self.optimizer, len(loaders.train))
        self.scaler = Scaler(self.optimizer, self.device, settings.accumulate, self.precision.needs_scaling)
        self.progress = Progress()
        self.monitor = Monitor(settings.monitor, settings.early_stop)
        self.meter = Meter()
        self.stopwatch = Stopwatch()
        self.guard = NonFiniteGuard(self.optimizer, self.describe_step)
        self.interrupt = InterruptHandler()
        self.observers = Observers({})

        # Everything that a checkpoint holds. A new part with state needs a line here, and nothing else.
        self.state: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "lr_scheduler": self.schedule,
            "scaler": self.scaler,
            "data": self.loaders.train,
            "progress": self.progress,
            "monitor": self.monitor,
            "meter": self.meter,
            "random": RandomStates(),
        }
        self.network = self.parallel.network(self.model)  # what is called in training: the model, or a wrapper of it
        self.average = WeightAverage(self.model, settings.ema) if settings.ema else None
        if self.average:
            self.state |= {"model": self.average, "training_model": self.model}

    def train_step(self, batch: Any) -> list[StepResult]:
        """Update the weights once.

        Override this for two optimizers, a distillation loss, batches that are dicts, and the like.
        """
        results = []
        self.optimizer.zero_grad()
        for inputs, targets in self.pieces(batch):
            with self.precision.autocast():
                output = self.network(inputs)
                losses = self.loss(output, targets)
            loss = self.scaler.scale(losses)
            loss.backward()
            results.append(StepResult(losses, output, targets))
        self.guard(self.scaler.unscale(), self.scaler.overflow)
        self.gradients.clip()
        self.optimizer.step()
        return results

    def evaluation_step(self, batch: Any) -> StepResult:
        """Run the model on a batch without learning from it; override it together with `train_step`."""
        inputs, targets = batch
        with self.precision.autocast():
            output = self.model(inputs)
            losses = self.loss(output, targets)
        return StepResult(losses, output, targets)

    def pieces(self, batch: Any) -> Iterable[Any]:
        """Divide a batch as `trainer.accumulate` says; by default, the one piece is the whole batch."""
        share = self.loaders.train.share(self.progress.batch) if self.scaler.divided else None
        return self.scaler.pieces(batch, share, self.parallel.exchange_gradients)

    def move(self, batch: Any) -> Any:
        """Bring a batch to the model's device."""
        return move(batch, self.device, self.config.trainer.channels_last)

    def open_run(self, run_dir: Path) -> None:
        """Give the run a folder, where observers and checkpoints write."""
        self.observers = build_observers(self.config, run_dir)
        self.state["loggers"] = self.observers
        self.saver = Saver(self, run_dir)

    def train(self) -> None:
        """Train until the last epoch, or until early stopping.

        Raises:
            Interrupted: SIGINT or SIGTERM came; a checkpoint has been written.
            Diverged: the loss is not finite; the weights and the last checkpoint are from before.
        """
        self.progress.finished = self.is_finished()
        try:
            self.observers.on_start(self)
            with self.interrupt, memory_explained(self.device, self.doing):
                while not self.progress.finished:
                    self.train_epoch()
                    self.end_epoch(self.evaluate(self.loaders.valid, "val"))
                self.saver.wait()
            self.observers.on_end(self)
        except Interrupted as stop:
            with self.interrupt:
                self.saver.save(LAST)
            raise Interrupted(stop.signum, farewell(self, stop.signum)) from None
        except Diverged as error:
            self.observers.on_failure(self, error)
            raise
        finally:
            self.saver.close()
            self.observers.close()

    def train_epoch(self) -> None:
        """Take the steps of an epoch that have not been taken yet."""
        loader, progress = self.loaders.train, self.progress
        self.freezing.set_epoch(progress.epoch)
        self.freezing.train_mode()
        self.network = self.parallel.network(self.model)
        loader.set_position(progress.epoch, progress.batch)
        self.stopwatch.start()
        epochs, batches = self.config.trainer.epochs, self.stopwatch.fetch(loader)
        for batch in progress_bar(batches, epochs * len(loader), progress.step, f"epoch {progress.epoch + 1}/{epochs}"):
            results = self.train_step(self.move(batch))
            if loader.share(progress.batch).own:
                self.count(self.meter, *results)
            self.after_step()
        self.guard.check(self.meter.flush())
        self.stopwatch.stop()

    def after_step(self) -> None:
        """Count a training step, and do what is due after it."""
        progress = self.progress
        progress.step += 1
        progress.batch += 1
        if self.average:
            self.average.update(progress.step)
        self.schedule.after_step()
        if progress.step % self.config.trainer.log_every == 0:
            self.guard.check(self.meter.flush())
            self.observers.on_step(progress.step, self.scalars(self.meter.window_means()) | self.health())
        self.saver.after_step()
        self.interrupt.check()

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Take stock of an epoch and its evaluation: observers, learning rate, best so far, checkpoints."""
        progress = self.progress
        scalars = self.scalars(self.meter.means()) | metrics | self.stopwatch.read()
        self.meter.start_epoch()
        progress.epoch += 1
        progress.batch = 0
        is_best = self.monitor.update(metrics, progress.epoch)
        self.schedule.after_epoch(metrics)
        progress.finished = self.is_finished()
        self.observers.on_evaluation(progress.step, progress.epoch, scalars, is_best)
        self.saver.after_epoch(is_best)

    @torch.no_grad()
    def evaluate(self, loader: Loader, split: str) -> dict[str, float]:
        """Measure loss and metrics over all samples of a loader, and leave no trace in the random state.

        Args:
            loader: the data.
            split: goes in front of the names: "val" makes `val_loss`, `val_accuracy`, and so on.
        """
        self.model.eval()
        meter = Meter()
        loader.set_position(0)
        for metric in self.metrics.collected.values():
            metric.reset()
        with random_state_kept(), self.average.applied() if self.average else nullcontext():
            for number, batch in enumerate(progress_bar(loader, len(loader), 0, split)):
                moved = self.move(batch)
                result = self.evaluation_step(moved)
                if loader.share(number).own:
                    self.count(meter, result)
                    self.metrics.collect(self.precision.full(result.output), result.targets)
                    self.observers.on_evaluation_batch(moved, result)
                self.interrupt.check()
        values = meter.means() | self.metrics.computed()
        return {f"{split}_{name}": value for name, value in values.items()}

    @torch.no_grad()
    def count(self, meter: Meter, *results: StepResult) -> None:
        """Add losses and metrics of a step to a meter; nothing is read from the device yet."""
        for result in results:
            samples = len(result.targets)
            meter.update("loss", result.losses, samples)
            for name, values in self.metrics.values(self.precision.full(result.output), result.targets).items():
                meter.update(name, values, samples)
            if meter is self.meter:
                self.stopwatch.count(samples)

    def scalars(self, means: dict[str, float]) -> dict[str, float]:
        """Name what a log entry of training holds."""
        rates = {f"lr_{group['name']}": float(group["lr"]) for group in self.optimizer.param_groups}
        if len(rates) == 1:
            rates = {}
        lr = float(self.optimizer.param_groups[0]["lr"])
        return {f"train_{name}": value for name, value in means.items()} | {"lr": lr} | rates

    def health(self) -> dict[str, float]:
        """Measure what else a log entry of training holds; this reads from the device."""
        return {"grad_norm": self.gradients.norm()} | self.stopwatch.read_window() | peak_memory(self.device)

    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.progress.epoch >= self.config.trainer.epochs or self.monitor.exhausted

    def describe_groups(self) -> str:
        """Describe the optimizer's parameter groups, a line for each."""
        return describe_groups(self.optimizer.param_groups)

    def doing(self) -> str:
        """Say what the run is at, for messages."""
        place = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}"
        return f"training ({place})" if self.model.training else f"evaluation (epoch {self.progress.epoch + 1})"

    def describe_step(self, ago: int) -> str:
        """Say what the step worked on whose loss was not finite, `ago` steps before the latest one."""
        number, step = self.progress.batch - ago, self.progress.step - ago
        batch, samples = self.loaders.train.load_batch(number)
        bad = not_finite(batch, samples)
        cause = f"; the batch itself holds values that are NaN or infinite, in the samples {few(bad)}" if bad else ""
        return (
            f"the loss is not finite at step {step + 1} (epoch {self.progress.epoch + 1}, batch {number + 1}){cause}\n"
            "the weights were not touched, and checkpoints, if there are any, are from before\n"
            f"samples of the batch: {few(samples)}"
        )
