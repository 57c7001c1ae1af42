"""Which parameter learns at which rate: the optimizer's parameter groups."""

from typing import Any

from torch import nn

from trainer.freezing import Freezing
from utils.config import Config, ParameterGroup
from utils.errors import ConfigError
from utils.patterns import idle_patterns, selected


def parameter_groups(config: Config, model: nn.Module, freezing: Freezing) -> list[dict[str, Any]]:
    """Divide the parameters into groups for the optimizer.

    Each parameter goes by the first of `optimizer.groups` that selects it, or by the optimizer's own arguments. One
    that thaws later has a place from the start, because schedulers count the groups when they are built; without a
    gradient, the optimizer passes it over and keeps no state for it. What stays frozen is in no group.

    Returns:
        Groups as `torch.optim` takes them, each with its parameters' names under `param_names` and a `name`.

    Raises:
        ConfigError: a pattern matches nothing, a group would be empty, or nothing is left to train.
    """
    section = config.optimizer
    stages = freezing.parameter_stages()
    _refuse_idle_groups(section.groups, [name for name, stage in stages.items() if stage is not None])
    groups: dict[str, dict[str, Any]] = {}
    # What is trained from the start comes first: its rate is the one that is shown.
    for name, parameter in sorted(model.named_parameters(), key=lambda item: stages[item[0]] or 0):
        stage = stages[name]
        if stage is None:
            continue
        label, options = _options(name, section.groups)
        if stage:
            thaw = config.unfreeze[stage - 1]
            label += f", from epoch {thaw.epoch}"
            options |= {} if thaw.lr is None else {"lr": thaw.lr}
        # Biases, and the scales and shifts of normalisation layers, are the parameters of one dimension.
        if parameter.ndim <= 1 and not section.decay_bias_and_norm:
            label += ", no decay"
            options["weight_decay"] = 0.0
        group = groups.setdefault(label, {"name": label, "params": [], "param_names": [], **options})
        group["params"].append(parameter)
        group["param_names"].append(name)
    if not groups:
        raise ConfigError(["freeze: leaves nothing to train; make an exception, as in `!head.*`"])
    _refuse_overwritten_rates(config, list(groups.values()))
    return list(groups.values())


def describe_groups(groups: list[dict[str, Any]]) -> str:
    """Describe the optimizer's groups, a line for each: name, size, learning rate, weight decay."""
    lines = []
    for group in groups:
        size = sum(parameter.numel() for parameter in group["params"])
        decay = f", weight decay {group['weight_decay']:.3g}" if "weight_decay" in group else ""
        lines.append(f"parameter group `{group['name']}`: {size:,} parameters, lr {float(group['lr']):.3g}{decay}")
    return "\n".join(lines)


def _options(name: str, rules: list[ParameterGroup]) -> tuple[str, dict[str, float]]:
    for rule in rules:
        if selected(name, rule.params):
            options = {"lr": rule.lr, "weight_decay": rule.weight_decay}
            return " ".join(rule.params), {key: value for key, value in options.items() if value is not None}
    return "main", {}


def _refuse_idle_groups(rules: list[ParameterGroup], names: list[str]) -> None:
    problems = []
    left = list(names)
    for number, rule in enumerate(rules):
        problems += [f"optimizer.groups.{number}.params.{i}: {text}" for i, text in idle_patterns(rule.params, names)]
        taken = [name for name in left if selected(name, rule.params)]
        if not problems and not taken:
            problems.append(f"optimizer.groups.{number}.params: found {rule.params}, of which earlier groups took all")
        left = [name for name in left if name not in taken]
    if problems:
        raise ConfigError(problems)


def _refuse_overwritten_rates(config: Config, groups: list[dict[str, Any]]) -> None:
    """OneCycleLR and CyclicLR set the rate of every group themselves, from a number or from one per group."""
    section = config.lr_scheduler
    rates = section.args.get("max_lr") if section and section.type in ("OneCycleLR", "CyclicLR") else None
    if isinstance(rates, int | float) and any("lr" in group for group in groups):
        names = [group["name"] for group in groups]
        raise ConfigError([f"lr_scheduler.args.max_lr: sets one rate for all; give one for each of the groups {names}"])
