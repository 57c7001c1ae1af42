"""The terminal and `train.log`: one readable line per epoch, and a progress bar where somebody looks."""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from logger.observer import Observer
from utils.distributed import is_main

log = logging.getLogger("project")


class _AboveTheBar(logging.Handler):
    """Prints to standard output without tearing the progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class _LogFile(logging.FileHandler):
    """A log file whose failing write, on a full disk say, ends the run like any other, not with a printed traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is Python's
        raise


def set_up_logging(file: Path | None = None) -> None:
    """Send the project's messages to standard output, and to a file with the time."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [_AboveTheBar()] if is_main() else [logging.NullHandler()]
    if file is not None:
        handler = _LogFile(file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)


def progress_bar(batches: Iterable[Any], total: int, done: int, label: str) -> Iterable[Any]:
    """Show how many batches are done, on standard error; silent when that is not a terminal."""
    return tqdm(
        batches,
        label,
        total,
        initial=done,
        leave=False,
        disable=None if is_main() else True,
        unit="batch",
        dynamic_ncols=True,
    )


class Console(Observer):
    """One aligned line per epoch; a star marks the best so far."""

    def __init__(self, run_dir: Path, epochs: int) -> None:
        """Report on a run of `epochs` epochs."""
        super().__init__(run_dir)
        self.epochs = epochs

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Print the epoch's line."""
        shown = {name: value for name, value in scalars.items() if name.startswith(("train_", "val_"))}
        columns = [f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"]
        columns += [f"{name} {value:<8.4g}" for name, value in shown.items()]
        columns += [f"lr {scalars['lr']:<8.3g}", f"{scalars['seconds']:.1f} s", "*" if is_best else ""]
        log.info("  ".join(columns).rstrip())
