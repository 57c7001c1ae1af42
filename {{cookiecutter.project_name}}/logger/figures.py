"""Pictures of what a model does on the validation data: the part that is the same for every task."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import PositiveInt

from logger.console import log
from logger.contents import is_due, letters_of_all_languages
from logger.observer import Observer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.trainer import StepResult, Trainer


class Figures(Observer):
    """Collects from the batches of an evaluation, and draws every so many steps and at the end of the run.

    A subclass says what: `fits`, `reset`, `collect`, `figures` and, if it has any, `texts`. The pictures go to all
    observers of the run. Of several processes the main one draws what it has evaluated, its share of each batch.
    """

    def __init__(self, run_dir: Path, every: PositiveInt = 2000) -> None:
        """Draw after each epoch in which a multiple of `every` steps is reached, and after the last."""
        super().__init__(run_dir)
        self.every = every
        self._collecting = False
        self._useful: bool | None = None

    def fits(self, batch: Any, result: "StepResult") -> bool:
        """Whether something can be drawn of such batches; asked once."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget what was collected."""
        raise NotImplementedError

    def collect(self, batch: Any, result: "StepResult") -> None:
        """Take what will be drawn from a batch: little of it, and nothing read from the device."""
        raise NotImplementedError

    def figures(self) -> Mapping[str, "Figure"]:
        """Draw."""
        raise NotImplementedError

    def texts(self) -> Mapping[str, str]:
        """Write, in plain text."""
        return {}

    def on_start(self, trainer: "Trainer") -> None:
        """Remember whom to ask how far the run has come."""
        self._trainer = trainer

    def on_evaluation_batch(self, batch: Any, result: "StepResult") -> None:
        """Collect, if there may be something to draw after this evaluation."""
        if self._useful is None:
            self._useful = self.fits(batch, result)
            if not self._useful:
                log.info("%s has nothing to draw: the data is of another kind", type(self).__module__)
        if self._useful and self._may_be_drawn():
            if not self._collecting:
                self.reset()
                self._collecting = True
            with torch.no_grad():
                self.collect(batch, result)

    def _may_be_drawn(self) -> bool:
        progress, monitor = self._trainer.progress, self._trainer.monitor
        may_stop = monitor.patience is not None and monitor.since_best + 1 >= monitor.patience
        return self._due(progress.step) or progress.epoch + 1 >= self._trainer.config.trainer.epochs or may_stop

    def _due(self, step: int) -> bool:
        return is_due(step, len(self._trainer.loaders.train), self.every)

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Draw, and hand the pictures to all."""
        if self._collecting and (self._due(step) or self._trainer.progress.finished):
            with letters_of_all_languages():
                for name, figure in self.figures().items():
                    self._trainer.observers.on_figure(name, figure, step)
            for name, text in self.texts().items():
                self._trainer.observers.on_text(name, text, step)
        if self._collecting:
            self.reset()
            self._collecting = False
