"""What is written down about trials while a search runs."""

import itertools
from pathlib import Path
from typing import Any

from ray import tune

from logger.console import log
from tuning.results import RECORD, UNFINISHED, Trial, read_trial
from tuning.values import drawn


class Records(tune.Callback):  # type: ignore[misc]
    """Writes `trial.json` for each trial, and a line to the terminal when it has ended."""

    def __init__(self, folder: Path, metric: str) -> None:
        """Write into the trials' folders below `folder`."""
        self.folder = folder
        self.metric = metric

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the values that it was given."""
        self._write(trial, UNFINISHED)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Tell `--verbose` of an epoch."""
        if "best" in result:
            log.debug("%s  epoch %d  best %s %.4g", trial, result["epoch"], self.metric, result["best"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note how it ended."""
        self._write(trial, trial.last_result.get("status", "stopped early"))
        log.info(read_trial(self.folder / str(trial), self.metric).describe(self.metric))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that Ray has given it up."""
        self._write(trial, "failed: its actor was killed again and again")
        log.info(read_trial(self.folder / str(trial), self.metric).describe(self.metric))

    def _write(self, trial: Any, status: str) -> None:
        folder = self.folder / str(trial)
        # Ray may have forgotten the end of a trial, if the search was killed just then.
        if not (folder / RECORD).exists() or read_trial(folder, self.metric).status != "finished":
            Trial(folder, drawn(trial.config), status).write()


def new_name(folder: Path, trial: Any) -> str:
    """Name a trial, and with it its folder."""
    for number in itertools.count(1):
        path = folder / f"trial_{number:03d}"
        if not path.exists():
            path.mkdir()
            return path.name
    raise AssertionError
