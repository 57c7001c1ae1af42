"""Evaluate a checkpoint.

python test.py -r saved/digits/<run>                                  the run's best checkpoint, on the test split
python test.py -r saved/digits/<run>/checkpoints/last.pth             any other
python test.py -r saved/digits/<run> --split val                      what training reported for that checkpoint
"""

import argparse
import json
import sys
from pathlib import Path

from logger.console import add_verbosity, log, set_up_logging
from trainer.build import build_trainer
from trainer.restoring import load_weights, with_shards
from trainer.run_folder import find_best
from utils.config_files import config_from_dict
from utils.distributed import is_main, process_group
from utils.errors import main_speaks_first, run


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--resume", required=True, type=Path, metavar="RUN", help="a run's folder or a file")
    parser.add_argument("--split", choices=["train", "val", "test"], default="test", help="which data (test)")
    add_verbosity(parser)
    parser.add_argument("words", nargs="*", metavar="key.path=value", help="a value of the config, as YAML")
    return parser.parse_intermixed_args()


def main() -> int:
    """Evaluate the checkpoint, print the metrics, and write them beside it."""
    arguments = parse_arguments()
    set_up_logging(level=arguments.level)
    with process_group(), main_speaks_first():
        evaluate(arguments)
    return 0


def evaluate(arguments: argparse.Namespace) -> None:
    """Do the work, in each of the processes."""
    file, state = find_best(arguments.resume, whole=False)
    config = config_from_dict(state["config"], arguments.words, str(file))
    config.trainer.ema = None  # the weights of the checkpoint are the averaged ones
    trainer = build_trainer(config)
    load_weights(trainer.model, with_shards(state, {"model": trainer.model})["model"])
    loaders = trainer.loaders
    loader = {"train": loaders.train, "val": loaders.valid, "test": loaders.test}[arguments.split]
    metrics = trainer.evaluate(loader, arguments.split)

    progress = state["progress"]
    log.info("%s, after epoch %d (step %d)", file, progress["epoch"], progress["step"])
    for name, value in metrics.items():
        log.info("  %s %.6g", name, value)
    if not is_main():
        return
    report = file.with_suffix(f".{arguments.split}.json")
    content = {
        "checkpoint": file.name,
        "epoch": progress["epoch"],
        "step": progress["step"],
        "metrics": metrics,
    }
    report.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    log.info("written to %s", report)


if __name__ == "__main__":
    sys.exit(run(main))
