"""Rules that join one section of a config with another, or with the data."""

import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any

from utils import registry
from utils.config import Config
from utils.config_problems import Problem, dotted, nearest, shown
from utils.errors import ConfigError

# Arguments of schedulers that say when something ends (reached if not beyond the run) ...
ENDS = ("T_max", "T_0", "total_iters")
# ... and when something begins (of use only before the end of the run).
BEGINNINGS = ("milestones", "step_size")


def broken_rules(config: Config) -> Iterator[Problem]:
    """Find what does not fit together in a config whose parts are right by themselves."""
    yield from _metric_names(config)
    yield from _monitor(config)
    yield from _plateau(config)
    yield from _weight_decay(config)
    yield from _unfreeze(config)
    yield from _strategy(config)
    yield from _length(config)
    if config.lr_scheduler and config.lr_scheduler.interval == "epoch":
        yield from _schedule(config, config.trainer.epochs, "epochs")


def check_against_data(config: Config, steps_per_epoch: int, train_size: int) -> list[str]:
    """Find what does not fit the data, one line each; it can be known only when the loaders exist.

    `steps_per_epoch` counts training steps (batches), `train_size` samples.
    """
    problems = list(_batch_size(config, train_size))
    if config.lr_scheduler and config.lr_scheduler.interval == "step":
        problems += _given_in_epochs(config, steps_per_epoch)
        problems += _schedule(config, config.trainer.epochs * steps_per_epoch, "steps")
    return [f"{dotted(path)}: {text}" for path, text in problems]


def _length(config: Config) -> Iterator[Problem]:
    """Sequences that are longer than the network allows show themselves only when the first of them comes."""
    longest, allowed = (section.args.get("max_length") for section in (config.data_loader, config.model))
    if isinstance(longest, int) and isinstance(allowed, int) and longest > allowed:
        text = f"found {longest}, but model.args.max_length is {allowed}: raise that too"
        yield Problem(("data_loader", "args", "max_length"), text)


def _metric_names(config: Config) -> Iterator[Problem]:
    for name, count in Counter(map(registry.metric_name, config.metrics)).items():
        if count > 1:
            text = f"found {count} metrics named `{name}`; give one of them another `name`"
            yield Problem(("metrics",), text)


def _monitor(config: Config) -> Iterator[Problem]:
    if config.trainer.monitor is None:
        if config.trainer.early_stop:
            yield Problem(("trainer", "early_stop"), "needs trainer.monitor, but that is null")
        return
    try:
        for metric in config.metrics:
            registry.find("metrics", metric.type)
    except ConfigError:
        return  # which metrics will exist is not known before that is mended
    name = config.trainer.monitor.split()[1]
    names = ["val_loss", *(f"val_{registry.metric_name(metric)}" for metric in config.metrics)]
    if name not in names:
        text = f"found {shown(config.trainer.monitor)}, but there will be no {name}"
        yield Problem(("trainer", "monitor"), f"{text}; allowed: {', '.join(names)}{nearest(name, names)}")


def _plateau(config: Config) -> Iterator[Problem]:
    """ReduceLROnPlateau follows the monitored metric: it steps after an evaluation, and in the same sense."""
    scheduler = config.lr_scheduler
    if scheduler is None or scheduler.type != "ReduceLROnPlateau":
        return
    if scheduler.interval == "step":
        text = 'found "step", should be "epoch": a plateau is seen in evaluations'
        yield Problem(("lr_scheduler", "interval"), text)
    mode, sense = scheduler.args.get("mode", "min"), (config.trainer.monitor or "min").split()[0]
    if mode != sense:
        text = f"found {shown(mode)}, should be {shown(sense)} as in trainer.monitor"
        yield Problem(("lr_scheduler", "args", "mode"), text)


def _weight_decay(config: Config) -> Iterator[Problem]:
    """Torch keeps an option of a group that the optimizer does not know, and nothing ever reads it."""
    try:
        known = inspect.signature(registry.find("optimizer", config.optimizer.type)).parameters.values()
    except ConfigError:
        return
    if any(parameter.name == "weight_decay" or parameter.kind == parameter.VAR_KEYWORD for parameter in known):
        return
    for number, group in enumerate(config.optimizer.groups):
        if group.weight_decay is not None:
            text = f"found {group.weight_decay:g}, but {config.optimizer.type} has no weight decay"
            yield Problem(("optimizer", "groups", number, "weight_decay"), text)


def _unfreeze(config: Config) -> Iterator[Problem]:
    epochs = config.trainer.epochs
    for number, thaw in enumerate(config.unfreeze):
        if thaw.epoch > epochs:
            text = f"found {thaw.epoch}, never reached in {epochs} epochs; should be at most {epochs}"
            yield Problem(("unfreeze", number, "epoch"), text)


def _strategy(config: Config) -> Iterator[Problem]:
    settings = config.trainer
    asked = {"strategy": settings.strategy} | ({"sharded_checkpoints": "fsdp"} if settings.sharded_checkpoints else {})
    for key, strategy in asked.items():
        try:
            registry.find("strategy", strategy)
        except ConfigError as error:
            yield Problem(("trainer", key), error.problems[0])
            return
    if settings.sharded_checkpoints and settings.strategy != "fsdp":
        text = f'found true, but with trainer.strategy {shown(settings.strategy)} no process has a share; needs "fsdp"'
        yield Problem(("trainer", "sharded_checkpoints"), text)


def _schedule(config: Config, length: int, unit: str) -> Iterator[Problem]:
    """Arguments of the scheduler that do not fit a run of `length` epochs or steps."""
    assert config.lr_scheduler
    args = config.lr_scheduler.args
    for name in ENDS + BEGINNINGS:
        value = args.get(name)
        last = _largest(value)
        limit = length if name in ENDS else length - 1
        if last is not None and last > limit:
            more = ", or left out to be just that" if name == "T_max" else ""
            text = f"found {shown(value)}, never reached in {length} {unit}; should be at most {limit}{more}"
            yield Problem(("lr_scheduler", "args", name), text)
    if config.lr_scheduler.type == "OneCycleLR":
        # It ends the run with an exception if it is too short.
        total = args.get("total_steps") or (args.get("epochs") or 0) * (args.get("steps_per_epoch") or 0)
        if total and total != length:
            path = ("lr_scheduler", "args", "total_steps" if args.get("total_steps") else "epochs")
            yield Problem(path, f"found {total} in total, should be the {length} {unit} of this run")


def _batch_size(config: Config, train_size: int) -> Iterator[Problem]:
    loader = registry.find("data_loader", config.data_loader.type)
    parameter = inspect.signature(loader).parameters.get("batch_size")
    size = config.data_loader.args.get("batch_size", parameter and parameter.default)
    if isinstance(size, int) and size > train_size:
        text = f"found {size}, more than the {train_size} samples of training data"
        yield Problem(("data_loader", "args", "batch_size"), text)


def _given_in_epochs(config: Config, steps_per_epoch: int) -> Iterator[Problem]:
    """Arguments that count steps, but look as if someone had counted epochs."""
    assert config.lr_scheduler
    epochs, steps = config.trainer.epochs, config.trainer.epochs * steps_per_epoch
    for name in ("T_max", "milestones") if steps > epochs else ():
        value = config.lr_scheduler.args.get(name)
        last = _largest(value)
        if last is not None and (last == epochs or (isinstance(value, list) and last < epochs)):
            text = f"found {shown(value)}, but this counts steps, of which the {epochs} epochs have {steps}"
            yield Problem(("lr_scheduler", "args", name), text)


def _largest(value: Any) -> float | None:
    """Return a number, or the largest of a list; None for all else, which a scheduler of one's own may take."""
    numbers = value if isinstance(value, list) else [value]
    known = numbers and all(isinstance(number, int | float) for number in numbers)
    return max(numbers) if known else None
