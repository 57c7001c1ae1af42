"""Which run to go on with, also for processes that torchrun has started in place of others.

torchrun starts all of them anew when one has failed, and when a machine has come or gone. It repeats the command line,
which says how to begin and not what has been begun since.
"""

import argparse
import os
from pathlib import Path

from trainer.run_folder import checkpoints_of, newest_unfinished
from utils.config import Config
from utils.distributed import from_main, gathered, is_main, local_rank


def what_to_resume(arguments: argparse.Namespace, config: Config | None) -> Path | None:
    """Return what to go on from, if anything: the folder of a run, or one of its checkpoint files."""
    interrupted = remembered_run()
    path = None
    if is_main():
        if interrupted and checkpoints_of(interrupted):
            path = interrupted
        elif config and arguments.resume == "auto":
            path = newest_unfinished(Path(config.trainer.save_dir), config.name)
        elif arguments.resume:
            path = Path(arguments.resume)
    return from_main(path)


def remember_run(run_dir: Path) -> None:
    """Let the processes that torchrun may start in place of these know what is being trained."""
    note = _note()
    if note and local_rank() == 0:
        unfinished = note.with_suffix(".tmp")
        unfinished.write_text(str(run_dir), encoding="utf-8")
        unfinished.replace(note)


def remembered_run() -> Path | None:
    """Return the folder of the run whose processes these have been started in place of, if there were any."""
    note = _note()
    own = note.read_text(encoding="utf-8") if note and note.exists() else ""
    known = [text for text in gathered(own) if text]  # a machine that has just joined knows of none
    return Path(known[0]) if known else None


def _note() -> Path | None:
    """Return a file that lasts as long as the torchrun which started this process, and is its alone; None without."""
    # This one is attempt_<number>/<local rank>/error.json in a folder that each torchrun makes for itself.
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parents[2] / "run" if file else None
