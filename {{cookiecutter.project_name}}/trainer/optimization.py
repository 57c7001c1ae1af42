"""The optimizer and the learning-rate scheduler, built from the config."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from utils.config import Component, Config
from utils.registry import build

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
    """The learning-rate scheduler, and when it steps."""

    def __init__(self, config: Config, optimizer: Optimizer) -> None:
        """Build the scheduler that the config names; without one, the learning rate stays."""
        section = config.lr_scheduler
        self.interval = section.interval if section else None
        self.scheduler: LRScheduler | None = None
        if section:
            self.scheduler = build("lr_scheduler", section, optimizer=optimizer)
        self.metric = config.trainer.monitor.split()[1] if config.trainer.monitor else "val_loss"

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

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state."""
        return self.scheduler.state_dict() if self.scheduler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the scheduler's state over."""
        if self.scheduler:
            self.scheduler.load_state_dict(state)


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
            return float(self._before_clipping)
        # They are still there: `zero_grad` is what a step begins with.
        return float(nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
