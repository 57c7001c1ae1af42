"""Training by Ray Train: `train.py` in several processes, their output in files, and a way to stop them."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from tuning.process import PROJECT, die_with_parent
from utils.errors import RunFailed

STOP = "stop"  # a file that asks all processes to write a checkpoint and end


class Training(threading.Thread):
    """Ray Train at work; in a thread of its own, so that the main one can listen to signals."""

    def __init__(self, job: dict[str, Any], workers: int, resources: dict[str, int]) -> None:
        """Prepare `workers` processes."""
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self.trainer = TorchTrainer(
            work,
            train_loop_config=job,
            torch_config=TorchConfig(backend="gloo"),  # for Ray's own group, which does not train
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=bool(resources["GPU"]), resources_per_worker=resources
            ),
            run_config=RunConfig(storage_path=job["folder"]),
        )

    def run(self) -> None:
        """Train, and keep the error if there is one."""
        try:
            self.trainer.fit()
        except Exception as error:
            self.error = error


def follow(training: Training, folder: Path) -> int:
    """Print what the first process prints, until the training ends, and return the exit code of `train.py`.

    Raises:
        RunFailed: Ray has failed, not `train.py`.
    """
    stopped_by = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped_by
        stopped_by = number
        signal.signal(number, signal.default_int_handler)  # a second one ends it at once
        (folder / STOP).touch()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    training.start()
    place, ended = 0, False
    while not ended:
        time.sleep(0.2)
        ended = not training.is_alive()
        if (output := folder / "rank_0.txt").exists():
            with open(output, encoding="utf-8", errors="replace") as file:
                file.seek(place)
                print(file.read(), end="", flush=True)
                place = file.tell()
    if training.error is None:
        return 128 + stopped_by if stopped_by else 0
    found = re.search(r"train\.py ended with exit code (-?\d+)", str(training.error))
    if not found:
        raise RunFailed(str(training.error).strip().splitlines()[-1]) from training.error
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f"{found[0]}; what each process printed is in {shown}", file=sys.stderr)
    return int(found[1]) if int(found[1]) > 0 else 128 - int(found[1])


def work(job: dict[str, Any]) -> None:
    """Run `train.py` as torchrun would: Ray has set RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR.

    In a process of its own, because it listens to signals, which only a main thread can.

    Raises:
        RuntimeError: it did not reach its end.
    """
    from torch import distributed

    with socket.create_server(("", 0)) as free:
        port = [free.getsockname()[1]]
    distributed.broadcast_object_list(port)  # Ray's own group keeps the port that it has
    folder = Path(job["folder"])
    # Beside the folder of this attempt, each machine keeps a note of what is trained, for the next one.
    note = folder.parent / f"machine_{os.environ['NODE_RANK']}"
    note.mkdir(exist_ok=True)
    error_file = note / folder.name / os.environ["LOCAL_RANK"] / "error.json"
    environment = {"MASTER_PORT": str(port[0]), "TORCHELASTIC_ERROR_FILE": str(error_file)}
    with open(folder / f"rank_{os.environ['RANK']}.txt", "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "train.py"), *job["words"]],
            cwd=job["cwd"],
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Where one process is lost, the others may wait for it, and hear no other signal.
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
    while process.poll() is None and not (folder / STOP).exists():
        time.sleep(0.5)
    if process.poll() is None:
        process.terminate()
    # A process that was stopped does not raise, for then Ray would kill the others, which are about to stop too.
    if process.wait() and not (folder / STOP).exists():
        raise RuntimeError(f"train.py ended with exit code {process.returncode}")
