"""Weights & Biases: the same as TensorBoard shows, at wandb.ai or kept on disk.

Log in with `wandb login`, or set WANDB_API_KEY; neither is ever written into a run's folder.
"""

import secrets
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from logger.contents import epoch_tags, hyperparameters, is_due, picture, step_tags, weights_and_gradients
from logger.observer import Observer
from utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.trainer import Trainer


class WandB(Observer):
    """Curves, histograms, pictures and the config.

    A resumed run goes on in its curve. Where the curve is ahead of the checkpoint, it is left as it is until training
    has caught up: the steps that are repeated have the same values, to the bit.
    """

    def __init__(
        self,
        run_dir: Path,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        histograms_every: PositiveInt | None = 200,
    ) -> None:
        """Prepare to report.

        Args:
            run_dir: the run's folder.
            project: name of the project there; None takes the config's name.
            entity: the user or team that it belongs to; None takes your own.
            mode: `offline` keeps everything in the run's folder, for `wandb sync`; None leaves it to WANDB_MODE.
            histograms_every: training steps between two histograms of weights and gradients (rounded up to a
                multiple of `trainer.log_every`); None draws none.
        """
        super().__init__(run_dir)
        try:
            import wandb
        except ImportError:
            raise UserError(
                'loggers.wandb: the package wandb is not installed: python -m pip install -e ".[wandb]"'
            ) from None
        self.wandb: Any = wandb
        self.project, self.entity, self.mode = project, entity, mode
        self.histograms_every = histograms_every
        self.id = secrets.token_hex(4)
        self._run: Any = None

    def on_start(self, trainer: "Trainer") -> None:
        """Open the run, or go on with it."""
        self._trainer = trainer
        try:
            self._run = self.wandb.init(
                id=self.id,
                resume="allow",
                project=self.project or trainer.config.name,
                entity=self.entity,
                mode=self.mode,
                name=self.run_dir.name,
                dir=str(self.run_dir),
                config=hyperparameters(trainer.config),
                settings=self.wandb.Settings(console="off", silent=True),
            )
        except self.wandb.Error as error:
            raise UserError(f"loggers.wandb: {error}\nwithout a connection: loggers.wandb.mode=offline") from error
        self._ahead = self._run.step
        if trainer.monitor.rule:
            split, _, quantity = trainer.monitor.metric.partition("_")
            self._run.define_metric(f"{quantity}/{split}", summary=trainer.monitor.mode)

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """Report the means since the last entry, and histograms when they are due."""
        entry: dict[str, Any] = dict(step_tags(scalars))
        if is_due(step, self._trainer.config.trainer.log_every, self.histograms_every):
            for name, values in weights_and_gradients(self._trainer.model):
                entry[name] = self.wandb.Histogram(values, num_bins=64)
        self._report(entry, step)

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Report the epoch's scalars."""
        self._report({"epoch": epoch, **epoch_tags(scalars, self._trainer.monitor)}, step)

    def on_figure(self, name: str, figure: "Figure", step: int) -> None:
        """Report a picture."""
        with TemporaryDirectory() as folder:  # a file is copied; W&B would compress an image once more
            file = Path(folder) / "picture.png"
            file.write_bytes(picture(figure))
            self._report({name: self.wandb.Image(str(file))}, step)

    def on_text(self, name: str, text: str, step: int) -> None:
        """Report a text."""
        self._report({name: self.wandb.Html(f"<pre>{escape(text)}</pre>")}, step)

    def _report(self, entry: dict[str, Any], step: int) -> None:
        if step >= self._ahead:
            self._run.log(entry, step=step)

    def on_end(self, trainer: "Trainer") -> None:
        """Mark the run as finished."""
        self._run.finish()
        self._run = None

    def close(self) -> None:
        """Send what is waiting; a run that was stopped or failed is marked so, until it is resumed."""
        if self._run is not None:
            self._run.finish(exit_code=1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the run is called there."""
        return {"id": self.id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on under the same name."""
        self.id = state["id"]
