"""What a run says when it ends: what came out, and how to go on."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.trainer import Trainer

NOTHING_TRAINED = "stopped before the first step: nothing was trained or kept; to start again, repeat the command"


def resume_command(run_dir: Path) -> str:
    """Return the command that continues a run."""
    return f"python train.py -r {run_dir}"


def farewell(trainer: "Trainer", signum: int) -> str:
    """Say what a stopped run leaves behind."""
    progress, name = trainer.progress, signal.Signals(signum).name
    return (
        f"stopped by {name} after step {progress.step} (epoch {progress.epoch + 1}, batch {progress.batch}); "
        f"to go on: {resume_command(trainer.saver.run_dir)}"
    )


def nothing_left(trainer: "Trainer") -> str:
    """Say why a run that is to go on is finished already, and how it can be trained longer."""
    done, epochs = trainer.progress.epoch, trainer.config.trainer.epochs
    if done < epochs:
        return f"this run was stopped early; to train it longer, raise trainer.early_stop={trainer.monitor.patience}"
    why = f"has trained {done} epochs, and trainer.epochs={epochs} is less" if done > epochs else "is finished"
    longer = f"to train it longer, add trainer.epochs={2 * done}; for a new one, give -c and no -r"
    return f"this run {why}: nothing is left to do; {longer}"


def next_steps(trainer: "Trainer") -> str:
    """Say what came out of a run that is finished, and what to do with it."""
    monitor, progress, run_dir = trainer.monitor, trainer.progress, trainer.saver.run_dir
    lines = [f"finished after epoch {progress.epoch}, step {progress.step}"]
    if monitor.best is not None:
        lines.append(f"best {monitor.metric} {monitor.best:.4g}, in epoch {monitor.best_epoch}")
    lines.append(f"evaluate: python test.py -r {run_dir}")
    lines.append(f"look:     tensorboard --logdir {run_dir.parent}")
    if (run_dir / "plots").exists():
        lines.append(f"pictures: {run_dir / 'plots'}")
    if (run_dir / "report.html").exists():
        lines.append(f"report:   {run_dir / 'report.html'}")
    return "\n".join(lines)
