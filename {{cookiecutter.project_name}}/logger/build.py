"""The observers that a config asks for."""

from pathlib import Path

from logger.console import Console
from logger.metrics_file import MetricsFile
from logger.observer import Observer, Observers
from utils.config import Component, Config
from utils.distributed import is_main
from utils.registry import build, is_wanted


def build_observers(config: Config, run_dir: Path) -> Observers:
    """Build the terminal's and the metrics file's observer, which every run has, and those of `loggers`.

    Of several processes only the main one is watched.
    """
    if not is_main():
        return Observers({})
    members: dict[str, Observer] = {"metrics": MetricsFile(run_dir)}
    for name, setting in config.loggers.items():
        if is_wanted(name, setting):
            args = setting if isinstance(setting, dict) else {}
            members[name] = build("loggers", Component(type=name, args=args), run_dir=run_dir)
    members["console"] = Console(run_dir, config.trainer.epochs)
    return Observers(members)
