"""All that is wrong in the values of a config, found at once and before anything is built."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

from pydantic import ValidationError

from utils import registry
from utils.arguments import RANGES, check_args, try_out
from utils.config import Component, Config
from utils.config_problems import Problem, existing, structure_problems
from utils.config_rules import broken_rules
from utils.config_yaml import KeyPath
from utils.errors import ConfigError
from utils.libraries import from_library, length_argument

# Arguments of schedulers that may have a value for each parameter group.
PER_GROUP = ("max_lr", "base_lr", "min_lr", "max_momentum", "base_momentum")


class _Use(NamedTuple):
    """A place of the config that names something by `type`, and where its problems belong."""

    section: str
    component: Component
    type_path: KeyPath
    args_path: KeyPath


def all_problems(data: dict[str, Any], trial: bool = True) -> list[Problem]:
    """Find every problem of these merged values.

    First keys and types, then what each `type` and its `args` name, then the rules that join the sections.
    `trial` also builds optimizer and scheduler on a single weight, to hear what they say of their arguments.
    """
    problems = structure_problems(data)
    for use in _uses(data):
        problems += _use_problems(use, data, trial)
    try:
        # What is wrong already gives way to its default, so that the rest can be judged too.
        config = Config.model_validate(_without(data, problems))
    except ValidationError:
        return problems
    return problems + list(broken_rules(config))


def _uses(data: dict[str, Any]) -> Iterator[_Use]:
    """Find all that is looked up by name, as far as it has the right form; the rest is reported already."""
    single = ("data_loader", "model", "loss", "optimizer", "lr_scheduler", "trainer")
    places: list[tuple[str, KeyPath, Any]] = [(name, (name,), data.get(name)) for name in single]
    if isinstance(metrics := data.get("metrics"), list):
        places += [("metrics", ("metrics", index), metric) for index, metric in enumerate(metrics)]
    if isinstance(starts := data.get("init_weights"), list):
        places += [("init_weights", ("init_weights", index), start) for index, start in enumerate(starts)]
    for section, path, value in places:
        type_, args = (value.get("type"), value.get("args", {})) if isinstance(value, dict) else (None, None)
        if isinstance(type_, str) and isinstance(args, dict):
            yield _Use(section, Component(type=type_, args=args), (*path, "type"), (*path, "args"))
    if isinstance(loggers := data.get("loggers"), dict):
        for name, setting in loggers.items():
            absent = name in registry.OPTIONAL_LOGGERS and not registry.is_wanted(name, setting)
            if (isinstance(setting, bool | dict) or setting == "if_present") and not absent:
                component = Component(type=name, args=setting if isinstance(setting, dict) else {})
                yield _Use("loggers", component, ("loggers", name), ("loggers", name))


def _use_problems(use: _Use, data: dict[str, Any], trial: bool) -> list[Problem]:
    try:
        target = registry.find(use.section, use.component.type)
    except ConfigError as error:
        return [Problem(use.type_path, text) for text in error.problems]
    if use.section == "trainer":
        return []  # its arguments are not the config's business
    library = from_library(target)
    injected = registry.injected_names(use.section, target)
    args = use.component.args
    if length := length_argument(target, args):
        args = {**args, length: 100}
    problems = check_args(target, args, injected, RANGES if library else None)
    if trial and library and not problems:
        problems = try_out(target, args, **_stand_ins(use, data))
    return [Problem((*use.args_path, *path), text) for path, text in problems]


def _stand_ins(use: _Use, data: dict[str, Any]) -> dict[str, Any]:
    """Make what the project would give to a class of a library, as small as can be."""
    import torch

    section = use.section
    if section == "optimizer":
        return {"params": [torch.nn.Parameter(torch.zeros(1, 1))]}
    if section == "lr_scheduler":
        # A list of rates has one for each parameter group; how many there will be, only the model can tell.
        lists = [use.component.args[name] for name in PER_GROUP if isinstance(use.component.args.get(name), list)]
        count = max(map(len, lists), default=0) or 1
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1, 1))]} for _ in range(count)]
        # Some schedulers want an optimizer with momentum: show them the one of this config, if it is sound.
        try:
            component = Component(type=data["optimizer"]["type"], args=data["optimizer"].get("args", {}))
            return {"optimizer": registry.build("optimizer", component, params=groups)}
        except (ConfigError, ValidationError, LookupError, TypeError):
            return {"optimizer": torch.optim.SGD(groups, lr=0.1, momentum=0.9)}
    if section == "init_weights":
        return {"tensor": torch.zeros(2, 2)}
    return {"reduction": "none"} if section == "loss" else {}


def _without(data: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """Copy all but the values that have problems; a `type` stays, as an unknown one is text all the same."""
    copy = deepcopy(data)
    for path, _ in problems:
        if path == existing(copy, path) and path[-1] != "type":
            while not isinstance(parent := _at(copy, path[:-1]), dict):
                path = path[:-1]
            parent.pop(path[-1])
    return copy


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data
