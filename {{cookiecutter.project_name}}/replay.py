"""Repeat the training step whose loss was not finite, and say where that began.

python replay.py saved/digits/<run>/bad_batch.pth     the file that a run with loggers.layer_watch=true leaves
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from logger.console import few, log, set_up_logging
from trainer.build import build_trainer
from trainer.restoring import load_weights
from trainer.summary import describe
from utils.config_files import config_from_dict
from utils.errors import UserError, run
from utils.replaying import replay


def read(file: Path) -> dict[str, Any]:
    """Read the file.

    Raises:
        UserError: it is not such a file.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        missing = {"config", "model", "random", "batch"} - content.keys()
    except Exception as error:  # the file may hold anything, so reading it may raise anything
        raise UserError(f"{file}: cannot be read: {error}") from None
    if missing:
        raise UserError(f"{file}: is not what a run leaves whose loss was not finite")
    return dict(content)


def main() -> int:
    """Build the trainer anew, with the weights of before the step, and take the step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="bad_batch.pth of a run")
    parser.add_argument("words", nargs="*", metavar="key.path=value", help="a value of the config, as YAML")
    arguments = parser.parse_args()
    set_up_logging()
    saved = read(arguments.file)
    trainer = build_trainer(config_from_dict(saved["config"], arguments.words, str(arguments.file)))
    load_weights(trainer.model, saved["model"])
    trainer.freezing.set_epoch(saved["epoch"])
    trainer.freezing.train_mode()
    log.info("step %d, samples %s: batch %s", saved["step"] + 1, few(saved["indices"]), describe(saved["batch"]))
    log.info(replay(trainer, saved["batch"], saved["random"]))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
