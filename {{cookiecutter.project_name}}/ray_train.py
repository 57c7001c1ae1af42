"""Train on a Ray cluster: `train.py` in several processes that share the work, by Ray Train.

python ray_train.py --workers 4 --address auto -c config.json         all other words are those of train.py
python ray_train.py --workers 4 --restarts 3 -c config.json           after a crash, go on from the last checkpoint

The project's folder must be at the same place on all machines, on a file system that they share. What the processes
print is kept in `saved/ray/<time>/`.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from utils.errors import UserError, run

# A new start would end in the same way.
FINAL = (0, 2, 3, 130, 143)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: this script's own options, and the words for `train.py`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="how many processes (1)")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="CPU cores for each (1)")
    parser.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster; `auto` finds the one of this machine")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="how often to start again (0)")
    arguments, words = parser.parse_known_args()
    if not words:
        parser.error("say what to train, in the words of train.py: -c config.json")
    return arguments, words


def main() -> int:
    """Start Ray, and the processes by it, and say what the first of them says."""
    arguments, words = parse_arguments()
    try:
        import ray

        from tuning.cluster import check_room, has_gpus, start_ray
        from tuning.ray_training import Training, follow
    except ModuleNotFoundError as error:
        raise UserError(f'the package {error.name} is missing: python -m pip install -e ".[tune]"') from None
    start_ray(arguments.address)
    gpus = int(has_gpus())
    check_room(f"{arguments.workers} workers (--workers, --cpus)", arguments.cpus, gpus, arguments.workers)
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(arguments.restarts + 1):
        folder = Path("saved", "ray", time, f"attempt_{attempt}").absolute()
        folder.mkdir(parents=True)
        job = {"words": words, "cwd": str(Path.cwd()), "folder": str(folder)}
        code = follow(Training(job, arguments.workers, {"CPU": arguments.cpus, "GPU": gpus}), folder)
        if code in FINAL:
            break
    ray.shutdown()
    return code


if __name__ == "__main__":
    sys.exit(run(main))
