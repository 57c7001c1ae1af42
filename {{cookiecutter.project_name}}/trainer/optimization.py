"""The optimizer and the learning-rate scheduler, built from the config."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from logger.console import log
from utils.config import Component, Config
from utils.distributed import whole
from utils.libraries import length_argument
from utils.registry import build, find

# Their fused versions update all parameters in one call, on every device, and carry the flag that the guard
# against non-finite losses needs.
_FUSED = ("SGD", "Adam", "AdamW")


def build_optimizer(config: Config, groups: list[dict[str, Any]]) -> Optimizer:
    """Build the optimizer over groups of parameters, fused where there is such a version."""
    component = config.optimizer
    args = dict(component.args)
    chosen = {"fused", "foreach", "differentiable"} & args.keys()
    if component.type in _FUSED and not chosen and all(p.is_floating_point() for g in groups for p in g["params"]):
        args["fused"] = True
    optimizer: Optimizer = build("optimizer", Component(type=component.type, args=args), params=groups)
    return optimizer


class Schedule:
    """The learning-rate scheduler, and when it steps.

    One whose length the config leaves out is as long as the run. If the run is made longer when it is resumed, the
    course that was begun is kept, and when it has ended a new one begins, which is as long as what was added.
    """

    def __init__(self, config: Config, optimizer: Optimizer, steps_per_epoch: int) -> None:
        """Build the scheduler that the config names; without one, the learning rate stays."""
        self.section = config.lr_scheduler
        self.optimizer = optimizer
        self.interval = self.section.interval if self.section else None
        self.end = config.trainer.epochs * (steps_per_epoch if self.interval == "step" else 1)
        self.start = 0  # of the present course
        self.length_argument: str | None = None
        self.scheduler: LRScheduler | None = None
        if self.section:
            self.length_argument = length_argument(find("lr_scheduler", self.section.type), self.section.args)
            self.scheduler = self._build(self.section)
        self.metric = config.trainer.monitor.split()[1] if config.trainer.monitor else "val_loss"

    def _build(self, section: Component) -> LRScheduler:
        length = {self.length_argument: self.end - self.start} if self.length_argument else {}
        scheduler: LRScheduler = build("lr_scheduler", section, optimizer=self.optimizer, **length)
        return scheduler

    def after_step(self) -> None:
        """A training step is done."""
        if self.scheduler is not None and self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, metrics: dict[str, float]) -> None:
        """An epoch and its evaluation are done; a plateau is a plateau of the metric that `monitor` names."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(metrics[self.metric])
        elif self.scheduler is not None and self.interval == "epoch":
            self.scheduler.step()
        self._begin_again_if_due()

    def _length(self) -> int | None:
        """Return the length of the present course, if the config leaves it out."""
        return getattr(self.scheduler, self.length_argument) if self.length_argument else None

    def _begin_again_if_due(self) -> None:
        """Begin a new course where the one before has ended, unless the run ends there too."""
        if self.section and self.scheduler and self.scheduler.last_epoch == self._length():
            ended = self.start + self.scheduler.last_epoch
            if ended < self.end:
                self.start = ended
                for group in self.optimizer.param_groups:
                    group["lr"] = group["initial_lr"]
                self.scheduler = self._build(self.section)

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state, and where its course began."""
        return {**self.scheduler.state_dict(), "schedule_start": self.start} if self.scheduler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the scheduler's state over."""
        if self.scheduler is None:
            return
        self.start = state.get("schedule_start", 0)
        self.scheduler.load_state_dict({key: value for key, value in state.items() if key != "schedule_start"})
        # The optimizer took its steps in another process; without this mark, torch would warn that it took none.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        if length := self._length():
            ended = self.start + length
            if ended < self.end:
                text = "the run is now longer than the schedule of its learning rate: a new one begins at %s %d of %d"
                log.info(text, self.interval, ended, self.end)
            elif ended > self.end:
                text = "the run is now shorter than the schedule of its learning rate, which would end at %s %d"
                log.info(text, self.interval, ended)
        self._begin_again_if_due()


class Gradients:
    """The gradients of a model: clipping them, and their norm."""

    def __init__(self, model: nn.Module, max_norm: float | None) -> None:
        """Look after the gradients of a model; their total norm shall be at most `max_norm`, None leaves them alone."""
        self.model = model
        self.max_norm = max_norm
        self._before_clipping: torch.Tensor | None = None

    def clip(self) -> None:
        """Scale all gradients down so that their total norm is at most `max_norm`."""
        if self.max_norm is not None:
            self._before_clipping = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)

    def norm(self) -> float:
        """Return the total norm in the latest step, before clipping; this waits for the device."""
        if self._before_clipping is not None:
            return float(whole(self._before_clipping))
        # They are still there: `zero_grad` is what a step begins with.
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(whole(nn.utils.get_total_norm(gradients)))
