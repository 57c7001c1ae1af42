"""One trial: `train.py` in a process of its own, whose epochs are read from the run's metrics file."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuning.results import run_files

PROJECT = Path(__file__).resolve().parents[1]
ATTEMPTS = 4  # how often a process may be killed before its trial counts as failed


class TrialFailed(Exception):
    """The training ended without reaching its end, and another attempt would not help; the message says why."""


class TrainingProcess:
    """A training that goes on from its own checkpoints, in its own run folder, however often its process dies.

    It is what a person would type: `python train.py -c config.json key=value …`, and later `-r <run>`.
    """

    def __init__(self, folder: Path, arguments: list[str], cwd: Path) -> None:
        """Start it, or go on with it.

        Args:
            folder: where the run's folder is, or will be.
            arguments: the command line of a new run, which must make its folder there.
            cwd: the working folder, to which relative paths in the config refer.
        """
        self.folder = folder
        self.errors = folder / "stderr.txt"
        self.arguments = arguments
        self.cwd = cwd
        self.epoch = 0  # the last one that was handed out
        self.attempts = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._start()

    def next_epoch(self) -> dict[str, Any] | None:
        """Wait for the next epoch's line of `metrics.jsonl`; None when the training has reached its end.

        A process that was killed is started again. An epoch that is trained again is not handed out twice.

        Raises:
            TrialFailed: the training ended in an error, or is killed again and again.
        """
        while True:
            for line in self._lines():
                if line["epoch"] > self.epoch:
                    self.epoch = line["epoch"]
                    self.attempts = 0
                    return line
            assert self._process.stdout
            # It prints a line after each epoch, and closes the pipe when it ends.
            if self._process.stdout.readline() == "" and not self._lines_left():
                code = self._process.wait()
                if code == 0:
                    return None
                self._restart(code)

    def stop(self) -> None:
        """End it where it can go on later: SIGTERM lets it write a checkpoint."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        words = self.arguments
        if checkpoints := run_files(self.folder, "checkpoints/*.pth"):
            run = checkpoints[-1].parents[1]
            _wait_for_lock(run)
            words = ["-r", str(run)]
        with open(self.errors, "w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(PROJECT / "train.py"), *words],
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for tune.py, which ends its trials itself
                preexec_fn=die_with_parent(),
            )

    def _restart(self, code: int) -> None:
        """Start again after a kill, by the system for want of memory, say, or by a person."""
        killed = code < 0 or code > 128
        self.attempts += 1
        if not killed or self.attempts == ATTEMPTS:
            raise TrialFailed(self._reason(code))
        self._start()

    def _reason(self, code: int) -> str:
        """Say in one line why the process ended: its message, without the warnings before it."""
        if code < 0:
            return f"killed by {signal.Signals(-code).name} {self.attempts} times in a row; out of memory?"
        said = self.errors.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line for line in said if line.strip() and "Warning: " not in line and not line.startswith(" ")]
        if not lines:
            return f"exit code {code}"
        if lines[0].startswith("Traceback "):
            return lines[-1]
        return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]

    def _lines(self) -> list[dict[str, Any]]:
        """Return the complete lines of the newest metrics file; a resumed process may take some back for a while."""
        files = run_files(self.folder, "metrics.jsonl")
        text = files[-1].read_text(encoding="utf-8") if files else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _lines_left(self) -> bool:
        return any(line["epoch"] > self.epoch for line in self._lines())


def _wait_for_lock(run: Path) -> None:
    """Wait until no other process trains in the folder: the one of an earlier attempt may be about to end."""
    from trainer.run_folder import RunLock  # with PyTorch, which an actor does not need otherwise

    while RunLock(run).is_held():
        time.sleep(0.2)


def die_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """Make a function for the new process to call, so that the system sends it a signal when its parent is killed.

    Only Linux can do that. Elsewhere the process ends at its next line of output, which nobody reads any more.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_for_signal() -> None:
        libc.prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before that
            os._exit(143)

    return ask_for_signal
