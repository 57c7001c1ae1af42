"""A trial as Ray sees it: the actor that looks after its training, and what is written down about it."""

import itertools
import json
from pathlib import Path
from typing import Any

from ray import tune

from logger.console import log
from tuning.process import TrainingProcess, TrialFailed
from tuning.results import RECORD, Trial, better, read_trial
from tuning.search_config import words_for


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """What Ray runs for each trial: each step waits for an epoch of the training."""

    def setup(self, config: dict[str, Any], folder: str, cwd: str, metric: str) -> None:
        """Start the training, or go on with it, if an earlier actor of this trial was killed.

        Args:
            config: the drawn values, as `domain` encoded them.
            folder: that of the search.
            cwd: where the search was started, to which relative paths in the config refer.
            metric: what trials are compared by, as in `max val_accuracy`.
        """
        self.folder, self.cwd, self.metric = Path(folder), Path(cwd), metric
        self.best: float | None = None
        self.process: TrainingProcess
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Return the best value after another epoch."""
        try:
            line = self.process.next_epoch()
        except TrialFailed as error:
            # Without a value: no other trial is compared with it, and Optuna learns that this is no place to look.
            return {"done": True, "epoch": self.process.epoch, "status": f"failed: {error}"}
        if line is None:
            return {"done": True, "epoch": self.process.epoch, "best": self.best, "status": "finished"}
        self.best = better(self.metric, self.best, line[self.metric.split()[1]])
        return {"epoch": self.process.epoch, "best": self.best}

    def cleanup(self) -> None:
        """End the training: it was stopped early, or the search was."""
        self.process.stop()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, which is quicker than a new actor."""
        self.process.stop()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        own = [f"name={self.trial_name}", f"trainer.save_dir={json.dumps(str(self.folder))}"]
        words = ["-c", str(self.folder / "config.json"), *words_for(drawn(config)), *own]
        self.best = None
        self.process = TrainingProcess(self.folder / self.trial_name, words, self.cwd)


class Records(tune.Callback):  # type: ignore[misc]
    """Writes `trial.json` for each trial, and a line to the terminal when it has ended."""

    def __init__(self, folder: Path, metric: str) -> None:
        """Write into the trials' folders below `folder`."""
        self.folder = folder
        self.metric = metric

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the values that it was given."""
        self._write(trial, "unfinished")

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


def drawn(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values that Ray has chosen, choices decoded."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in config.items()}


def new_name(folder: Path, trial: Any) -> str:
    """Name a trial, and with it its folder."""
    for number in itertools.count(1):
        path = folder / f"trial_{number:03d}"
        if not path.exists():
            path.mkdir()
            return path.name
    raise AssertionError
