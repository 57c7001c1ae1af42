"""When checkpoints are written, what is in them, and how a run goes on from one."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from logger.console import log
from trainer.background import BackgroundWriter
from trainer.checkpoint import save_checkpoint
from trainer.run_folder import CHECKPOINTS, set_aside
from trainer.snapshot import snapshot
from utils.config import Config
from utils.distributed import Agreement, is_main, like
from utils.errors import RunFailed, UserError, disk_is_full

if TYPE_CHECKING:
    from trainer.trainer import Trainer

LAST, BEST = "last.pth", "best.pth"


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
        with self._failure_explained(step):  # loggers write what waits before they say how long their files are
            state = snapshot({name: part.state_dict() for name, part in trainer.state.items()})
        state["config"] = trainer.config.model_dump(mode="json", by_alias=True)
        if is_main():
            self._writer.start(lambda: self._write(state, names, step, finished))
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
        except RunFailed as error:
            log.warning("%s", error)

    def _write(self, state: dict[str, Any], names: tuple[str, ...], step: int, finished: bool) -> None:
        with self._failure_explained(step):
            save_checkpoint(state, [self.folder / name for name in names], step=step, finished=finished)
            self._remove_old()

    @contextmanager
    def _failure_explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "the disk is full" if disk_is_full(error) else error.strerror or str(error)
            rest = "no checkpoint of this run has been written"
            if any(self.folder.glob("*.pth")):
                rest = f"the checkpoints of before are whole; to go on from there: {self.resume_command()}"
            raise RunFailed(f"could not write a checkpoint at step {step}: {reason}\n{rest}") from error

    def restore(self, state: dict[str, Any]) -> None:
        """Put the trainer where a checkpoint was written.

        Checkpoints beyond it, of a course of training that is about to be replaced, are moved aside.

        Raises:
            UserError: the config differs in what a run cannot change half-way, or the model's weights do.
        """
        trainer = self.trainer
        refuse_changes(state["config"], trainer.config)
        load_weights(trainer.model, state.get("training_model", state["model"]))
        if trainer.average:
            trainer.average.load_state_dict(state["model"])
        if trainer.parallel.sharded:
            from trainer.sharding import divided_state

            state = {**state, "optimizer": divided_state(trainer.optimizer, state["optimizer"])}
        # First the checkpoints, then the logs (in `state`): the other way round, a kill in between would leave
        # checkpoints whose logs are gone.
        step = state["progress"]["step"]
        for moved in set_aside(self.run_dir, step) if is_main() else []:
            log.info("%s is ahead of step %d: moved to %s", moved.name, step, moved.parent)
        for name, part in trainer.state.items():
            if name not in ("model", "training_model") and name in state:
                part.load_state_dict(state[name])

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

    def resume_command(self) -> str:
        """Return the command that continues this run."""
        return f"python train.py -r {self.run_dir}"

    def farewell(self, signum: int) -> str:
        """Say what a stopped run leaves behind."""
        progress, name = self.trainer.progress, signal.Signals(signum).name
        return (
            f"stopped by {name} after step {progress.step} (epoch {progress.epoch + 1}, batch {progress.batch}); "
            f"to go on: {self.resume_command()}"
        )

    def next_steps(self) -> str:
        """Say what came out of a run that is finished, and what to do with it."""
        monitor, progress = self.trainer.monitor, self.trainer.progress
        lines = [f"finished after epoch {progress.epoch}, step {progress.step}"]
        if monitor.best is not None:
            lines.append(f"best {monitor.metric} {monitor.best:.4g}, in epoch {monitor.best_epoch}")
        lines.append(f"evaluate: python test.py -r {self.run_dir}")
        lines.append(f"look:     tensorboard --logdir {self.run_dir.parent}")
        if (self.run_dir / "plots").exists():
            lines.append(f"pictures: {self.run_dir / 'plots'}")
        if (self.run_dir / "report.html").exists():
            lines.append(f"report:   {self.run_dir / 'report.html'}")
        return "\n".join(lines)

    def _warn_of_scarce_space(self) -> None:
        """Estimate what the checkpoints will take: weights, two numbers per weight in Adam, and one spare file."""
        weights = sum(parameter.nbytes for parameter in self.trainer.model.parameters())
        existing = sum(path.stat().st_size for path in self.folder.glob("*.pth"))
        needed = 3 * weights * (3 + self.settings.keep_last) - existing
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            log.warning(
                "the disk of %s has %.0f MB free, and this run's checkpoints will take about %.0f MB",
                self.run_dir, free / 1e6, needed / 1e6,
            )  # fmt: skip


def refuse_changes(stored: dict[str, Any], config: Config) -> None:
    """Keep a run on its course: what is built from these sections was saved, and would not take a new value.

    Raises:
        UserError: a section that shapes the course of training is not what it was.
    """
    now = config.model_dump(mode="json", by_alias=True)
    changed = []
    for section in ("seed", "data_loader", "model", "loss", "optimizer", "lr_scheduler", "freeze", "unfreeze"):
        before, after = stored.get(section), now.get(section)
        if section == "data_loader":
            before, after = _without_workers(before), _without_workers(after)
        if before != after:
            changed.append(f"  {section}: was {json.dumps(before)}, is {json.dumps(after)}")
    if changed:
        raise UserError(
            "\n".join(["a run that goes on cannot change these parts of its config:", *changed])
            + "\nstart a new run for them; trainer, loggers, metrics and num_workers may change"
        )


def _without_workers(section: Any) -> Any:
    args = {name: value for name, value in section["args"].items() if name != "num_workers"}
    return {**section, "args": args}


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load a state dict that has to fit exactly.

    Raises:
        UserError: it does not; the message lists what is missing, superfluous or of another shape.
    """
    own = model.state_dict()
    problems = [f"missing: {name}" for name in own if name not in weights]
    problems += [f"superfluous: {name}" for name in weights if name not in own]
    problems += [
        f"of another shape: {name}: {tuple(weights[name].shape)}, and the model has {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        raise UserError("\n  ".join(["the checkpoint is of another model:", *problems]))
    model.load_state_dict({name: like(value, own[name]) for name, value in weights.items()})
