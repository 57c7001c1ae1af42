"""The training loop."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_loaders.loader import Loader, Loaders
from logger.build import build_observers
from logger.console import progress_bar
from trainer.criterion import Criterion, Metrics
from trainer.freezing import Freezing
from trainer.guard import NonFiniteGuard
from trainer.interrupt import InterruptHandler
from trainer.memory import memory_explained
from trainer.meter import Meter, Weighted
from trainer.monitor import Monitor
from trainer.optimization import Schedule, build_optimizer, clip_gradients
from trainer.parameter_groups import describe_groups, parameter_groups
from trainer.progress import Progress
from trainer.saving import Saver
from trainer.stopwatch import Stopwatch
from utils.config import Config
from utils.device import all_finite, choose_device, move
from utils.errors import Interrupted
from utils.seeding import RandomState, random_state_kept


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
        self.device = choose_device(config.trainer.device)

        self.model = model.to(self.device)
        self.loss = Criterion(config, self.device)
        self.metrics = Metrics(config, self.device)
        self.freezing = Freezing(config, self.model)
        self.optimizer = build_optimizer(config, parameter_groups(config, self.model, self.freezing))
        self.schedule = Schedule(config, self.optimizer)
        self.progress = Progress()
        self.monitor = Monitor(config.trainer.monitor, config.trainer.early_stop)
        self.meter = Meter()
        self.stopwatch = Stopwatch()
        self.guard = NonFiniteGuard(self.optimizer, self.describe_step)
        self.interrupt = InterruptHandler()

        # Everything that a checkpoint holds. A new part with state needs a line here, and nothing else.
        self.state: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "lr_scheduler": self.schedule,
            "data": self.loaders.train,
            "progress": self.progress,
            "monitor": self.monitor,
            "meter": self.meter,
            "random": RandomState(),
        }

    def train_step(self, batch: Any) -> StepResult:
        """Update the weights once.

        Override this for two optimizers, a distillation loss, batches that are dicts, and the like.
        """
        inputs, targets = batch
        self.optimizer.zero_grad()
        output = self.model(inputs)
        losses = self.loss(output, targets)
        loss = losses.mean()
        loss.backward()
        self.guard(loss)
        clip_gradients(self.model, self.config.trainer.clip_grad_norm)
        self.optimizer.step()
        return StepResult(losses, output, targets)

    def evaluation_step(self, batch: Any) -> StepResult:
        """Run the model on a batch without learning from it; override it together with `train_step`."""
        inputs, targets = batch
        output = self.model(inputs)
        return StepResult(self.loss(output, targets), output, targets)

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
            self.saver.save("last.pth")
            raise Interrupted(stop.signum, self.saver.farewell(stop.signum)) from None
        finally:
            self.saver.close()
            self.observers.close()

    def train_epoch(self) -> None:
        """Take the steps of an epoch that have not been taken yet."""
        loader, progress = self.loaders.train, self.progress
        self.freezing.set_epoch(progress.epoch)
        self.freezing.train_mode()
        loader.set_position(progress.epoch, progress.batch)
        self.stopwatch.start()
        for batch in progress_bar(loader, len(loader), progress.batch, f"epoch {progress.epoch + 1}"):
            result = self.train_step(move(batch, self.device))
            self.count(self.meter, result)
            self.after_step()
        self.guard.check(self.meter.flush())
        self.stopwatch.stop()

    def after_step(self) -> None:
        """Count a training step, and do what is due after it."""
        progress = self.progress
        progress.step += 1
        progress.batch += 1
        self.schedule.after_step()
        if progress.step % self.config.trainer.log_every == 0:
            self.guard.check(self.meter.flush())
            self.observers.on_step(progress.step, self.scalars(self.meter.window_means()))
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
        with random_state_kept():
            for batch in progress_bar(loader, len(loader), 0, split):
                result = self.evaluation_step(move(batch, self.device))
                self.count(meter, result)
                self.metrics.collect(result.output, result.targets)
                self.interrupt.check()
        values = meter.means()
        for name, metric in self.metrics.collected.items():
            values[name] = float(metric.compute())
        return {f"{split}_{name}": value for name, value in values.items()}

    def count(self, meter: Meter, result: StepResult) -> None:
        """Add a step's loss and metrics to a meter; nothing is read from the device yet."""
        samples = len(result.targets)
        meter.update("loss", result.losses, samples)
        with torch.no_grad():
            for name, values in self.metrics.values(result.output, result.targets).items():
                meter.update(name, values, samples)
        if meter is self.meter:
            self.stopwatch.samples += samples

    def scalars(self, means: dict[str, float]) -> dict[str, float]:
        """Name what a log entry of training holds."""
        rates = {f"lr_{group['name']}": float(group["lr"]) for group in self.optimizer.param_groups}
        if len(rates) == 1:
            rates = {}
        lr = float(self.optimizer.param_groups[0]["lr"])
        return {f"train_{name}": value for name, value in means.items()} | {"lr": lr} | rates

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
        cause = "" if all_finite(batch) else "; the batch itself holds values that are NaN or infinite"
        return (
            f"the loss is not finite at step {step + 1} (epoch {self.progress.epoch + 1}, batch {number + 1}){cause}\n"
            f"the weights were not touched, and the last checkpoint is from before; samples of the batch: {samples}"
        )
