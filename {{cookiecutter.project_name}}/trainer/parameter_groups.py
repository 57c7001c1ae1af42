"""Which parameter learns at which rate: the optimizer's parameter groups."""

from typing import Any

from torch import nn

from trainer.freezing import Freezing
from utils.config import Config, ParameterGroup
from utils.errors import ConfigError
from utils.patterns import all_names, idle_patterns, selected


def parameter_groups(config: Config, model: nn.Module, freezing: Freezing) -> list[dict[str, Any]]:
    """Divide the parameters into groups for the optimizer.

    Each parameter goes by the first of `optimizer.groups` that selects it, by any of its names, or by the optimizer's
    own arguments. One that thaws later has a place from the start, because schedulers count the groups when they are
    built; without a gradient, the optimizer passes it over and keeps no state for it. What stays frozen is in no group.

    Returns:
        Groups as `torch.optim` takes them, each with its parameters' names under `param_names` and a `name`.

    Raises:
        ConfigError: a pattern matches nothing, a group would be empty, or nothing is left to train.
    """
    section, stages = config.optimizer, freezing.parameter_stages()
    if 0 not in stages.values():
        raise ConfigError(["freeze: leaves nothing to train in the first epoch; make an exception, as in `!head.*`"])
    names = all_names(model.named_parameters(remove_duplicate=False))
    rules = _rules(section.groups, {name: names[name] for name, stage in stages.items() if stage is not None}, names)
    spared = set() if section.decay_bias_and_norm else _biases_and_norms(model)
    groups: dict[tuple[int | None, int, bool], dict[str, Any]] = {}
    # What is trained from the start comes first: its rate is the one that is shown.
    for name, parameter in sorted(model.named_parameters(), key=lambda item: stages[item[0]] or 0):
        stage = stages[name]
        if stage is not None:
            key = (rules[name], stage, id(parameter) in spared)
            group = groups.setdefault(key, _new_group(config, *key))
            group["params"].append(parameter)
            group["param_names"].append(name)
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


def _new_group(config: Config, rule: int | None, stage: int, spared: bool) -> dict[str, Any]:
    """Make a group without parameters yet, with a name that no other one has, and its own options."""
    words: list[str] = []
    options: dict[str, float | None] = {}
    if rule is not None:
        chosen = config.optimizer.groups[rule]
        words.append(" ".join(chosen.params))
        options = {"lr": chosen.lr, "weight_decay": chosen.weight_decay}
    if stage:
        thaw = config.unfreeze[stage - 1]
        words.append(f"{' '.join(thaw.modules)} from epoch {thaw.epoch}")
        options["lr"] = thaw.lr or options.get("lr")
    if spared:
        words.append("no decay")
        options["weight_decay"] = 0.0
    if rule is None and not stage:
        taken = any(group.params == ["main"] for group in config.optimizer.groups)
        words.insert(0, "all others" if taken else "main")
    given = {key: value for key, value in options.items() if value is not None}
    return {"name": ", ".join(words), "params": [], "param_names": [], **given}


def _rules(
    groups: list[ParameterGroup], trained: dict[str, list[str]], every: dict[str, list[str]]
) -> dict[str, int | None]:
    """Find which of `optimizer.groups` each parameter goes by.

    Args:
        groups: patterns and options.
        trained: the names of each parameter that is trained at some time, under its first one.
        every: the same of all parameters.

    Raises:
        ConfigError: a pattern matches nothing, or a group has no parameters.
    """
    rules: dict[str, int | None] = dict.fromkeys(trained)
    problems = []
    known = [name for names in every.values() for name in names]
    for number, group in enumerate(groups):
        path = f"optimizer.groups.{number}.params"
        idle = [f"{path}.{position}: {text}" for position, text in idle_patterns(group.params, known)]
        taken = [first for first, names in trained.items() if any(selected(name, group.params) for name in names)]
        left = [name for name in taken if rules[name] is None]
        rules |= dict.fromkeys(left, number)
        if not idle and not left:
            others = "earlier groups took all" if taken else "nothing is trained"
            idle = [f"{path}: found {group.params}, of which {others}"]
        problems += idle
    if problems:
        raise ConfigError(problems)
    return rules


def _biases_and_norms(model: nn.Module) -> set[int]:
    """Find biases, and the scales and shifts of normalisation layers; they have one dimension, save for a few."""
    spared = {id(parameter) for parameter in model.parameters() if parameter.ndim <= 1}
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):  # over several dimensions, perhaps
            spared |= {id(parameter) for parameter in module.parameters()}
    return spared


def _refuse_overwritten_rates(config: Config, groups: list[dict[str, Any]]) -> None:
    """OneCycleLR and CyclicLR set the rate of every group themselves, from a number or from one per group."""
    section = config.lr_scheduler
    rates = section.args.get("max_lr") if section and section.type in ("OneCycleLR", "CyclicLR") else None
    if isinstance(rates, int | float) and any("lr" in group for group in groups):
        names = [group["name"] for group in groups]
        raise ConfigError([f"lr_scheduler.args.max_lr: sets one rate for all; give one for each of the groups {names}"])
