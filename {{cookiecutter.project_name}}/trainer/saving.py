"""When checkpoints are written, and under which names."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.console import log
from trainer.background import BackgroundWriter
from trainer.checkpoint import SHARDS, flush_folder
from trainer.closing import resume_command
from trainer.run_folder import BEST, CHECKPOINTS, LAST, remove_unused_shards
from utils.distributed import Agreement, is_main
from utils.errors import RunFailed, disk_is_full

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class Saver:
    """Writes a trainer's checkpoints into the run's folder.

    `last.pth` is written whenever anything is saved, `best.pth` at each new best value, and `epoch_XXXX.pth` at
    the regular ones, of which the newest few are kept. Every file holds the whole state.

    Training waits for a copy of its state in memory only; a thread writes that to the disk. An error there ends the
    run at its next step.
    """

    def __init__(self, trainer: "Trainer", run_dir: Path) -> None:
        """Prepare to save; leftovers of a save that was killed are removed, and scarce space is reported."""
        self.trainer = trainer
        self.run_dir = run_dir
        self.folder = run_dir / CHECKPOINTS
        self.settings = trainer.config.trainer
        self._saved_at = time.monotonic()
        self._agree = Agreement()
        self._writer = BackgroundWriter()
        if not is_main():
            return
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        remove_unused_shards(run_dir)
        self._warn_of_scarce_space()

    def after_step(self) -> None:
        """Save within an epoch when enough steps or minutes have passed."""
        self._writer.check()
        steps, minutes = self.settings.save_every_steps, self.settings.save_every_minutes
        due = steps is not None and self.trainer.progress.step % steps == 0
        if minutes is not None:
            due = self._agree(time.monotonic() - self._saved_at >= 60 * minutes) > 0 or due
        if due:
            self.begin_save(LAST)

    def after_epoch(self, is_best: bool) -> None:
        """Save at the end of an epoch what is due: the best, the regular one, the very last."""
        progress, every = self.trainer.progress, self.settings.save_every_epochs
        names = [BEST] if is_best else []
        regular = every is not None and progress.epoch % every == 0
        if regular and self.settings.keep_last:
            names.append(f"epoch_{progress.epoch:04d}.pth")
        if names or regular or progress.finished:
            self.begin_save(LAST, *names)

    def save(self, *names: str) -> None:
        """Write the trainer's state under one or more names, and wait until that is done.

        Raises:
            RunFailed: the files could not be written; those of before are whole.
            Diverged: a loss that was not read yet is not finite, or the weights are NaN; nothing is written.
        """
        self.begin_save(*names)
        self.wait()

    def begin_save(self, *names: str) -> None:
        """Copy the trainer's state, and write it in the background under one or more names.

        Raises:
            RunFailed: the files of the save before could not be written.
            Diverged: as for `save`.
        """
        trainer = self.trainer
        trainer.guard.check(trainer.meter.flush())
        trainer.guard.check_weights()
        self.wait()  # there is room in memory for one copy, and files have to appear in their order
        step, finished = trainer.progress.step, trainer.progress.finished
        with self._failure_explained(step):
            state = {name: part.state_dict() for name, part in trainer.state.items()}
            state["config"] = trainer.config.model_dump(mode="json", by_alias=True)
            copied = trainer.parallel.snapshot(state)
        self._writer.start(lambda: self._write(copied, names, step, finished))
        self._saved_at = time.monotonic()

    def wait(self) -> None:
        """Wait until no save is under way.

        Raises:
            RunFailed: the files could not be written.
        """
        self._writer.wait()

    def close(self) -> None:
        """Let a save that is under way come to its end; where it fails now, another error has ended the run."""
        try:
            self.wait()
        except Exception as error:
            log.warning("%s", error)

    def _write(self, state: dict[str, Any], names: tuple[str, ...], step: int, finished: bool) -> None:
        with self._failure_explained(step):
            if is_main():  # another machine may not see the folder
                self.trainer.observers.sync()
                flush_folder(self.run_dir)
            paths = [self.folder / name for name in names]
            self.trainer.parallel.write(state, paths, step=step, finished=finished)
            self._remove_old()

    @contextmanager
    def _failure_explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "the disk is full" if disk_is_full(error) else error.strerror or str(error)
            rest = "no checkpoint of this run has been written"
            if any(self.folder.glob("*.pth")):
                rest = f"the checkpoints of before are whole; to go on from there: {resume_command(self.run_dir)}"
            raise RunFailed(f"could not write a checkpoint at step {step}: {reason}\n{rest}") from error

    def complete(self, file: Path) -> None:
        """Bring a save to its end that a kill may have cut short; the run was just restored from its `file`."""
        progress, monitor = self.trainer.progress, self.trainer.monitor
        if file.name != LAST and progress.batch == 0:  # last.pth is the last to be written
            self.after_epoch(is_best=monitor.best_epoch == progress.epoch)
        self.wait()
        self._remove_old()
        if monitor.best is not None and not (self.folder / BEST).exists():
            log.warning(
                "there will be no %s before %s is better than the %.4g of epoch %d, of which there is no checkpoint",
                BEST, monitor.metric, monitor.best, monitor.best_epoch,
            )  # fmt: skip

    def _remove_old(self) -> None:
        if not is_main():
            return
        regular = sorted(self.folder.glob("epoch_*.pth"), key=lambda path: (len(path.name), path.name))
        for old in regular[: -self.settings.keep_last or None]:
            old.unlink()
        remove_unused_shards(self.run_dir)

    def _warn_of_scarce_space(self) -> None:
        """Estimate what the checkpoints will take: weights, two numbers per weight in Adam, and one spare file."""
        weights = sum(parameter.nbytes for parameter in self.trainer.model.parameters())
        files = [*self.folder.glob("*.pth"), *self.folder.glob(f"{SHARDS}/*/*")]
        existing = sum(path.stat().st_size for path in files)
        needed = 3 * weights * (3 + self.settings.keep_last) - existing
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            log.warning(
                "the disk of %s has %.0f MB free, and this run's checkpoints will take about %.0f MB",
                self.run_dir, free / 1e6, needed / 1e6,
            )  # fmt: skip
