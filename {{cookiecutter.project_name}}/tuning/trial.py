"""A trial as Ray sees it: an actor that looks after a training. It imports little, for each one is a process."""

import json
import math
from pathlib import Path
from typing import Any

from ray import tune

from tuning.process import TrainingProcess, TrialFailed
from tuning.values import drawn, words_for


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """What Ray runs for each trial: each step waits for an epoch of the training."""

    def setup(self, config: dict[str, Any], folder: str, cwd: str, metric: str) -> None:
        """Start the training, or go on with it, if an earlier actor of this trial was killed.

        Args:
            config: the chosen values, as Ray has them.
            folder: that of the search.
            cwd: where the search was started, to which relative paths in the config refer.
            metric: what trials are compared by, as it is called in `metrics.jsonl`.
        """
        self.folder, self.cwd, self.metric = Path(folder), Path(cwd), metric
        self.best: float
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
            value = {} if math.isnan(self.best) else {"best": self.best}
            return {"done": True, "epoch": self.process.epoch, "status": "finished", **value}
        if line["best"]:
            self.best = line[self.metric]
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
        folder = self.folder / self.trial_name
        own = f"trainer.save_dir={json.dumps(str(folder))}"
        words = ["-c", str(self.folder / "config.json"), *words_for(drawn(config)), own]
        self.best = math.nan  # until an epoch was better than that
        self.process = TrainingProcess(folder, words, self.cwd)
