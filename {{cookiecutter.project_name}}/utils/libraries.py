"""The classes of torch and torchmetrics that a config may name."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

# What these need (a closure, functions, other schedulers) cannot stand in a config.
UNUSABLE = {"LBFGS", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}

# Schedulers with an end, and the arguments that say when; without any of them the first one is the run's length.
LENGTHS = {"CosineAnnealingLR": ("T_max",), "OneCycleLR": ("total_steps", "epochs", "steps_per_epoch")}


def library(section: str) -> tuple[str, dict[str, Callable[..., Any]]]:
    """Return the name of the library that a section may look in, and its classes by name.

    Imported only here, when asked for: torchmetrics takes a second.
    """
    import torch

    if section == "optimizer":
        return "torch.optim", _subclasses(torch.optim, torch.optim.Optimizer)
    if section == "lr_scheduler":
        schedulers = torch.optim.lr_scheduler
        return "torch.optim.lr_scheduler", _subclasses(schedulers, schedulers.LRScheduler)
    if section == "loss":
        losses = _subclasses(torch.nn, torch.nn.modules.loss._Loss)
        # The loop calls loss(output, target): a loss of three or more inputs has no place in it.
        return "torch.nn", {name: loss for name, loss in losses.items() if _inputs(loss) == 2}
    if section == "init_weights":
        fillers = vars(torch.nn.init).items()
        return "torch.nn.init", {name: value for name, value in fillers if re.fullmatch("[a-z]\\w*_", name)}
    import torchmetrics
    import torchmetrics.text

    modules = (torchmetrics, torchmetrics.classification, torchmetrics.text)
    found = [_subclasses(module, torchmetrics.Metric) for module in modules]
    # Later ones win: at the top stands an old Perplexity that warns, and no MulticlassF1Score and the like.
    return "torchmetrics", found[0] | found[1] | found[2]


def length_argument(target: Callable[..., Any], args: Mapping[str, Any]) -> str | None:
    """Return the argument of a scheduler that the run's length is given to; None where `args` say the length."""
    names = LENGTHS.get(target.__name__, ()) if from_library(target) else ()
    return names[0] if names and not any(name in args for name in names) else None


def from_library(target: Callable[..., Any]) -> bool:
    """Say whether a class comes from torch or torchmetrics and not from the project."""
    return target.__module__.partition(".")[0] in ("torch", "torchmetrics")


def _subclasses(module: Any, base: type) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
        if not name.startswith("_") and name not in UNUSABLE
    }


def _inputs(loss: Any) -> int:
    return len(inspect.signature(loss.forward).parameters) - 1
