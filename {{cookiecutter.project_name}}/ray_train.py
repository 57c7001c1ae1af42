"""Train on a Ray cluster: `train.py` in several processes that share the work, by Ray Train.

python ray_train.py --workers 4 --address auto -c config.json           all other words are those of train.py
python ray_train.py --workers 4 --restarts 3 -r auto -c config.json     go on after a crash, from the last checkpoint

The project's folder must be at the same place on all machines, on a file system that they share.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from utils.errors import RunFailed, UserError, run

PROJECT = Path(__file__).resolve().parent


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: this script's own options, and the words for `train.py`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="how many processes (1)")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="CPU cores for each (1)")
    parser.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster; `auto` finds the one of this machine")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="how often to start again (0)")
    return parser.parse_known_args()


def main() -> int:
    """Start Ray, and the processes by it."""
    arguments, words = parse_arguments()
    if not words:
        raise UserError("say what to train, in the words of train.py: -c config.json")
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from tuning.cluster import start_ray
    except ModuleNotFoundError as error:
        raise UserError(f'the package {error.name} is missing: python -m pip install -e ".[tune]"') from None
    start_ray(arguments.address, show_output=True)
    gpu = ray.cluster_resources().get("GPU", 0) >= arguments.workers
    trainer = TorchTrainer(
        work,
        train_loop_config={"words": words, "cwd": str(Path.cwd())},
        scaling_config=ScalingConfig(
            num_workers=arguments.workers, use_gpu=gpu, resources_per_worker={"CPU": arguments.cpus, "GPU": int(gpu)}
        ),
        run_config=RunConfig(
            storage_path=str(Path("saved/ray").absolute()),
            failure_config=FailureConfig(max_failures=arguments.restarts),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise RunFailed(str(error).strip().splitlines()[-1]) from error
    finally:
        ray.shutdown()
    return 0


def work(config: dict[str, Any]) -> None:
    """Run `train.py` as torchrun would: Ray has set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    In a process of its own, because it listens to signals, which only a main thread can.

    Raises:
        RuntimeError: it did not reach its end.
    """
    from torch import distributed

    from tuning.process import die_with_parent

    distributed.destroy_process_group()  # Ray's own: train.py makes another at the same address
    command = [sys.executable, str(PROJECT / "train.py"), *config["words"]]
    code = subprocess.run(command, cwd=config["cwd"], preexec_fn=die_with_parent()).returncode
    if code:
        raise RuntimeError(f"train.py ended with exit code {code}")


if __name__ == "__main__":
    sys.exit(run(main))
