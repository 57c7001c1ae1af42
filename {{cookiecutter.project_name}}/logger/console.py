"""The terminal and `train.log`: one readable line per epoch, and a progress bar where somebody looks."""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from logger.observer import Observer
from utils.distributed import is_main

log = logging.getLogger("project")

_REFRESH = 0.1  # seconds
_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"


class _AboveTheBar(logging.Handler):
    """Prints to standard output without tearing the progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class _LogFile(logging.FileHandler):
    """A log file whose failing write, on a full disk say, ends the run like any other, not with a printed traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is Python's
        raise


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet` and `--verbose`, which set `level`."""
    group = parser.add_mutually_exclusive_group()
    group.set_defaults(level=logging.INFO)
    for name, level, text in (
        ("quiet", logging.WARNING, "print warnings and errors only"),
        ("verbose", logging.DEBUG, "also print a line every trainer.log_every steps"),
    ):
        group.add_argument(f"-{name[0]}", f"--{name}", dest="level", action="store_const", const=level, help=text)


def set_up_logging(file: Path | None = None, level: int | None = None) -> None:
    """Send the project's messages to standard output, and to a file with the time.

    Args:
        file: where to; None writes no file. The file also gets what `--quiet` keeps from the terminal.
        level: the least level that is printed; None keeps the one that was set before, at first `INFO`.
    """
    terminal = next((handler for handler in log.handlers if isinstance(handler, _AboveTheBar)), None)
    if terminal is None:
        terminal = _AboveTheBar(logging.INFO)
    if level is not None:
        terminal.setLevel(level)
    log.propagate = False
    log.handlers = [terminal]
    if not is_main():
        terminal.setLevel(logging.ERROR)
    elif file is not None:
        handler = _LogFile(file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(min(terminal.level, logging.INFO))


class _Bar:
    """The progress bar on the screen, if there is one, and what stands behind it."""

    tqdm: "tqdm[Any] | None" = None
    text = ""


def progress_bar(batches: Iterable[Any], total: int, done: int, label: str) -> Iterable[Any]:
    """Show how many batches are done, on standard error; silent with `--quiet` and when that is not a terminal."""
    silent = True if any(handler.level > logging.INFO for handler in log.handlers) else None
    looks: Any = {"leave": False, "dynamic_ncols": True, "bar_format": _BAR, "mininterval": _REFRESH}
    _Bar.tqdm = tqdm(batches, label, total, initial=done, disable=silent, **looks)
    _Bar.tqdm.set_postfix_str(_Bar.text)
    return _Bar.tqdm


class Console(Observer):
    """One aligned line per epoch; a star marks the best so far."""

    def __init__(self, run_dir: Path, epochs: int) -> None:
        """Report on a run of `epochs` epochs."""
        super().__init__(run_dir)
        self.epochs = epochs

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """Show the latest means behind the bar, and in a line of their own with `--verbose`."""
        shown = {name: value for name, value in scalars.items() if name.startswith("train_")}
        speed = f"{scalars['samples_per_second']:.4g} samples/s"
        means = [f"{name.removeprefix('train_')} {value:.4g}" for name, value in shown.items()]
        _Bar.text = "  ".join([*means, speed])
        if _Bar.tqdm is not None:
            _Bar.tqdm.set_postfix_str(_Bar.text, refresh=False)
        columns = [f"step {step:>7}", *_columns(shown)]
        log.debug("  ".join([*columns, f"grad_norm {scalars['grad_norm']:<8.3g}", speed]))

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Print the epoch's line."""
        shown = {name: value for name, value in scalars.items() if name.startswith(("train_", "val_"))}
        columns = [f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}", *_columns(shown)]
        columns += [f"lr {scalars['lr']:<8.3g}", f"{scalars['seconds']:.1f} s", "*" if is_best else ""]
        log.info("  ".join(columns).rstrip())

    def close(self) -> None:
        """Forget what stood behind the bar."""
        _Bar.tqdm, _Bar.text = None, ""


def few(things: Sequence[object]) -> str:
    """Write the first of some numbers or names, and how many more there are."""
    more = len(things) - 8
    return ", ".join(map(str, things[:8])) + (f" and {more} more" if more > 0 else "")


def _columns(scalars: dict[str, float]) -> list[str]:
    return [f"{name} {value:<8.4g}" for name, value in scalars.items()]
