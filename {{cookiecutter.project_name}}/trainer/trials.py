"""Short trials in place of a training: each is a file of this folder that is found by its name, and can be deleted."""

import argparse
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from data_loaders.loader import Loader
from trainer.build import build_trainer
from trainer.check import check_first_batch
from utils.config import Config
from utils.errors import EXTRA, UserError

TRIALS: dict[str, dict[str, Any]] = {
    "overfit": {"type": int, "metavar": "N", "help": "learn N samples by heart: a new model's first check"},
    "find_lr": {"action": "store_true", "help": "raise the learning rate step by step, and draw the loss"},
    "profile": {"action": "store_true", "help": "show where the time of a training step goes"},
}


def add_trials(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command line."""
    group = parser.add_argument_group("short trials in place of a training, which leave no run behind")
    for name, option in TRIALS.items():
        hidden = {} if _is_there(name) else {"help": argparse.SUPPRESS}  # `run_trial` says why it is not there
        group.add_argument(_option(name), **option | hidden)


def run_trial(arguments: argparse.Namespace, config: Config | None) -> bool:
    """Run the trial that the command line asks for, if any, and say whether there was one.

    Raises:
        UserError: its file is not there, or there is no config to try.
    """
    asked = {name: getattr(arguments, name) for name in TRIALS}
    chosen = [name for name, value in asked.items() if value is not None and value is not False]
    if not chosen:
        return False
    name, option = chosen[0], _option(chosen[0])
    if config is None or arguments.resume or len(chosen) > 1:
        raise UserError(f"{option} goes with -c and a config, with no -r, and alone")
    if not _is_there(name):
        raise UserError(f"{option}: this project has no trainer/{name}.py; {EXTRA}")
    trainer = build_trainer(config, starting_weights=True)
    check_first_batch(trainer)
    trainer.freezing.train_mode()
    importlib.import_module(f"trainer.{name}").run(trainer, getattr(arguments, name))
    return True


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(f"trainer.{name}") is not None


def endless(loader: Loader) -> Iterator[Any]:
    """Iterate over batches epoch after epoch."""
    epoch = 0
    while True:
        loader.set_position(epoch)
        yield from loader
        epoch += 1
