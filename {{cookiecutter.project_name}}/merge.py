"""Write a checkpoint whose tensors lie in shards as one file, which opens anywhere.

python merge.py -r saved/digits/<run> whole.pth                             the run's best checkpoint, or its newest
python merge.py -r saved/digits/<run>/checkpoints/last.pth whole.pth        any other

All of it has to fit into the memory of this machine.
"""

import argparse
import sys
from pathlib import Path

from trainer.checkpoint import read_header, save_checkpoint
from trainer.run_folder import find_best
from utils.errors import run


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--resume", required=True, type=Path, metavar="RUN", help="a run's folder or a file")
    parser.add_argument("file", type=Path, help="where to write")
    return parser.parse_args()


def main() -> int:
    """Read, and write."""
    arguments = parse_arguments()
    file, state = find_best(arguments.resume)
    header = read_header(file)
    save_checkpoint(state, [arguments.file], step=header.step, finished=header.finished)
    print(f"{file}, after step {header.step}, is now also in {arguments.file}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
