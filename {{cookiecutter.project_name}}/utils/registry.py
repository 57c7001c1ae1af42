"""From a `type` in the config to the class or function that it names.

Each section may look in one place of the project, and some then in one library. Nothing else can be
reached: only what is defined there (not merely imported) counts, and no name with a leading underscore.
"""

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.config import Component, Metric
from utils.config_problems import closest, nearest, shown, unknown
from utils.errors import EXTRA, ConfigError
from utils.libraries import from_library, library

# Here a type is `file.Name`: the folder may have many files.
PACKAGES = {"data_loader": "data_loaders", "model": "model", "trainer": "trainer"}
# Here a type is the bare `Name`, of this file of the project (which need not exist) or else of a library.
MODULES = {
    "loss": "model.loss",
    "metrics": "model.metric",
    "optimizer": "trainer.optimizer",
    "lr_scheduler": "trainer.lr_scheduler",
    "init_weights": "model.init",
}
# How the types of a package are found in its files without importing them, for messages.
TYPES = {
    "data_loaders": r"^class ([A-Za-z]\w*)\(.*Loaders\)",
    "model": r"^(?:class|def) ([A-Za-z]\w*)",
    "trainer": r"^class (Trainer\b|[A-Za-z]\w*(?=\(.*Trainer\)))",
}
# What `trainer.strategy` names: a file of trainer/, which need not exist, and a class in it.
STRATEGIES = {"ddp": ("parallel", "Parallel"), "fsdp": ("sharding", "Sharding")}
# Files of logger/ that every run uses anyway, and those of two folders that a project may do without.
BUILT_IN_LOGGERS = ("build", "console", "contents", "event_file", "figures", "metrics_file", "model_graph", "observer")
OPTIONAL_DATA = ("hf_images", "hf_table", "hf_text")
OPTIONAL_LOGGERS = ("image_figures", "layer_watch", "plots", "report", "table_figures", "text_figures", "wandb")


def find(section: str, type_: str) -> Callable[..., Any]:
    """Return the class or function that `type_` names in a section of the config.

    Raises ConfigError for a name that is not there, and for a file that needs a module that is not installed. Any
    other error in the project's own file is not caught.
    """
    if section == "loggers":
        return _observer(type_)
    if section == "strategy":
        return _strategy(type_)
    if section in PACKAGES:
        return _from_package(PACKAGES[section], type_)
    package, _, file = MODULES[section].partition(".")
    own = _defined_in(package, file) if _exists(package, file) else {}
    if type_ in own:
        return own[type_]
    library_name, classes = library(section)
    if type_ in classes:
        return classes[type_]
    if len(classes) > 30:
        raise ConfigError([unknown("type", type_, own, f" and {len(classes)} classes of {library_name}", classes)])
    raise ConfigError([unknown("type", type_, [*own, *classes])])


def build(section: str, component: Component, /, **injected: Any) -> Any:
    """Find what the component names and call it with the injected arguments and its own.

    A loss or metric that is a function is not called but returned with its arguments bound. Raises
    ConfigError where a class of a library refuses its arguments; an error in the project's own class passes.
    """
    target = find(section, component.type)
    if section in ("loss", "metrics") and inspect.isfunction(target):
        return functools.partial(target, **component.args)
    if section == "loss" and from_library(target):
        injected["reduction"] = "none"  # one loss per sample, so that a short last batch weighs right
    try:
        return target(**injected, **component.args)
    except (ValueError, TypeError, RuntimeError) as error:
        if not from_library(target):
            raise
        raise ConfigError([f"{section}.args: {component.type} says: {error}"]) from error


def is_wanted(logger: str, setting: Any) -> bool:
    """Say whether a setting of `loggers` asks for an observer; those of deleted files may be asked for softly."""
    if setting == "if_present" and logger in OPTIONAL_LOGGERS:
        return _exists("logger", logger)
    return setting is not False


def injected_names(section: str, target: Callable[..., Any]) -> set[str]:
    """Return the arguments that the project itself gives, and a config may not."""
    if section in ("loss", "metrics") and inspect.isfunction(target):
        return set(list(inspect.signature(target).parameters)[:2])
    return {
        "data_loader": {"seed"},
        "loss": {"reduction", "size_average", "reduce"} if from_library(target) else set(),
        "optimizer": {"params"},
        "lr_scheduler": {"optimizer", "last_epoch", "verbose"},
        "loggers": {"run_dir"},
        "init_weights": {"tensor", "generator"},
    }.get(section, set())


def arguments_with(section: str, component: Component, value: int) -> list[str]:
    """Name the arguments of a component that have this value, given or by default, as far as that can be told."""
    try:
        signature = inspect.signature(find(section, component.type))
    except (ConfigError, TypeError, ValueError):  # it was handed over, and is not what the config names, for instance
        return []
    arguments = {key: each.default for key, each in signature.parameters.items()} | component.args
    return [key for key, each in arguments.items() if type(each) is int and each == value]


def metric_name(metric: Metric) -> str:
    """Name a metric as in logs and `monitor`: `accuracy` stays, `text.F1Score` becomes `f1_score`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", metric.type.rpartition(".")[2])
    return metric.name or words.lower()


def _from_package(package: str, type_: str) -> Callable[..., Any]:
    file, _, name = type_.partition(".")
    if not _exists(package, file):
        files = _files(package)
        text = f"found {shown(type_)}, but this project has no file {package}/{file}.py"
        if package == "data_loaders" and file in OPTIONAL_DATA:
            raise ConfigError([f"{text}; {EXTRA}"])
        types = _types(package)
        hint = _meant(name or file, types) or nearest(file, files, after=f".{name or '<name>'}")
        raise ConfigError([f"{text}; allowed: {', '.join(sorted(types.values()))}{hint}"])
    targets = _defined_in(package, file)
    if package == "trainer":
        targets = _subclasses(targets, "trainer.trainer", "Trainer")
    if name not in targets:
        types = _types(package)
        here = [each for each in types.values() if each.startswith(f"{file}.")]
        listed = ", ".join(sorted(here or [f"{file}.{each}" for each in targets])) or "none"
        hint = _meant(name or file, types) or nearest(name, targets, before=f"{file}.")
        raise ConfigError([f"found {shown(type_)}, no such type; allowed: {listed}{hint}"])
    return targets[name]


def _meant(name: str, types: dict[str, str]) -> str:
    close = closest(name, types)
    return f"; did you mean `{types[close]}`?" if close else ""


def _types(package: str) -> dict[str, str]:
    """Return what a config is likely to want of a package: `file.Name`, by `Name`."""
    found = {}
    for file in _files(package):
        path = Path(importlib.import_module(package).__path__[0], f"{file}.py")
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        found.update({name: f"{file}.{name}" for name in re.findall(TYPES[package], text, re.MULTILINE)})
    return found


def _strategy(name: str) -> Callable[..., Any]:
    file, class_ = STRATEGIES[name]
    if not _exists("trainer", file):
        there = [shown(each) for each, (other, _) in STRATEGIES.items() if _exists("trainer", other)]
        text = f"needs strategy {shown(name)}, but this project has no trainer/{file}.py; it has {', '.join(there)}"
        raise ConfigError([f"{text}; {EXTRA}"])
    return _defined_in("trainer", file)[class_]


def _observer(file: str) -> Callable[..., Any]:
    if not _exists("logger", file) or file in BUILT_IN_LOGGERS:
        files = _files("logger")
        text = f"this project has no logger in logger/{file}.py"
        extra = f"; {EXTRA}" if file in OPTIONAL_LOGGERS else nearest(file, files)
        raise ConfigError([f"{text}; allowed: {', '.join(files)}{extra}"])
    targets = _subclasses(_defined_in("logger", file), "logger.observer", "Observer")
    if not targets:
        raise ConfigError([f"logger/{file}.py defines no subclass of logger.observer.Observer"])
    return next(iter(targets.values()))


def _exists(package: str, file: str) -> bool:
    """Say whether a package of the project has such a public file, without importing it."""
    public = file.isidentifier() and not file.startswith("_")
    return public and importlib.util.find_spec(f"{package}.{file}") is not None


def _files(package: str) -> list[str]:
    """List the files of a package in which a config may look for `file.Name`, or for a logger."""
    files = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    taken = {*MODULES.values(), *(f"logger.{file}" for file in BUILT_IN_LOGGERS)}
    return [file for file in files if f"{package}.{file}" not in taken and not file.startswith("_")]


def _defined_in(package: str, file: str) -> dict[str, Callable[..., Any]]:
    """Return the public classes and functions that a file itself defines, by name."""
    try:
        module = importlib.import_module(f"{package}.{file}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or importlib.util.find_spec(missing) is not None:
            raise
        where = f"{package}/{file}.py needs the module {missing}, which is not there"
        if _exists(package, missing):
            raise ConfigError([f"{where}; from this project it is imported as {package}.{missing}"]) from error
        raise ConfigError([f"{where}: install the package that has it, often of the same name"]) from error
    return {
        name: value
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        if value.__module__ == module.__name__ and not name.startswith("_")
    }


def _subclasses(targets: dict[str, Callable[..., Any]], module: str, name: str) -> dict[str, Callable[..., Any]]:
    base = getattr(importlib.import_module(module), name)
    return {key: each for key, each in targets.items() if inspect.isclass(each) and issubclass(each, base)}
