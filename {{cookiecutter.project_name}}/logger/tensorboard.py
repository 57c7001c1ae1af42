"""TensorBoard: `tensorboard --logdir saved`."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.observer import AppendOnlyFiles, Observer

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class TensorBoard(Observer):
    """Scalars by step.

    Names become tags by their first underscore, so that `train_loss` and `val_loss` appear as `loss/train`
    and `loss/val`, side by side.
    """

    def __init__(self, run_dir: Path) -> None:
        """Write event files into `run_dir`."""
        super().__init__(run_dir)
        # Imported here because it takes a third of a second, and only training needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._files = AppendOnlyFiles(run_dir, "events.out.tfevents.*")
        self._new_writer = SummaryWriter
        self._writer: Any = None

    def on_start(self, trainer: "Trainer") -> None:
        """Open a new event file."""
        # A TensorBoard that is open while the run is resumed also forgets what was cut off.
        self._writer = self._new_writer(str(self.run_dir), purge_step=trainer.progress.step + 1)
        if trainer.progress.step == 0:
            config = trainer.config.model_dump_json(by_alias=True, indent=2)
            self._writer.add_text("config", "```json\n" + config + "\n```", 0)
            self._writer.add_text("parameter groups", trainer.describe_groups(), 0)

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """Write the means since the last entry, under `steps/`."""
        for name, value in scalars.items():
            self._writer.add_scalar(f"steps/{name}", value, step)

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Write the epoch's scalars."""
        for name, value in scalars.items():
            split, _, quantity = name.partition("_")
            tag = f"{quantity}/{split}" if split in ("train", "val") else f"run/{name}"
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Write what is waiting."""
        if self._writer is not None:
            # The last checkpoint saw everything before it written; an error now must not hide why the run ends.
            with suppress(OSError):
                self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the lengths of the event files, after seeing them written."""
        if self._writer is not None:
            self._writer.flush()
        return {"sizes": self._files.sizes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Drop events that were written after the checkpoint."""
        self._files.cut_back(state["sizes"])
