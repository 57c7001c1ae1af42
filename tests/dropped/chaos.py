"""Dropped into a project's `logger/`: lets something terrible happen at an exactly chosen moment of a run.

The environment variable CHAOS says what: `step:5:KILL` kills the process with SIGKILL at its fifth training
step. An event is one that `Chaos` counts (see there); what happens is a signal (KILL and STOP for this process,
INT and TERM for its whole group, as a terminal or Slurm sends them; `INT+TERM` sends both) or, for `loss`, a
number that is added to the loss (`nan`, `inf`). It happens once if ONCE names a file, which remembers it.
"""

import builtins
import io
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from logger.observer import Observer
from trainer.trainer import Trainer

Report = Callable[[str, str], int | None]


class Tap:
    """Reports each call that reaches the disk, for files below a folder, before it is made.

    `report` gets the name of the call and that of the file. It may raise, in place of the call, or kill the process;
    for "write" it may return how many bytes the system shall take, fewer than it was given.
    """

    def __init__(self, folder: Path, report: Report) -> None:
        """Prepare to report what happens below `folder`."""
        self.folder = str(folder)
        self.report = report
        self._paths: dict[int, tuple[str, int]] = {}
        self._real = {(module, name): getattr(module, name) for module, name in self._functions()}

    def _functions(self) -> list[tuple[Any, str]]:
        names = ("open", "fsync", "replace", "rename", "unlink", "remove", "truncate", "mkdir")
        return [(builtins, "open"), (io, "open"), *((os, name) for name in names)]

    def __enter__(self) -> "Tap":
        """Listen."""
        for (module, name), real in self._real.items():
            wrapped = self._open if module is not os else self._call(name, real)
            setattr(module, name, wrapped)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        for (module, name), real in self._real.items():
            setattr(module, name, real)

    def _open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "b" not in mode or not str(file).startswith(self.folder):
            return self._real[builtins, "open"](file, mode, *args, **kwargs)
        self.report("open", Path(file).name)
        raw = TappedFile(str(file), mode.replace("b", ""), self.report)
        self._remember(raw.fileno(), str(file))
        if "+" in mode:
            return io.BufferedRandom(raw)
        return io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)

    def _call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            path = self._path_of(target) if isinstance(target, int) else str(target)
            if not path.startswith(self.folder):
                return real(target, *args, **kwargs)
            # What a rename does is known by the new name.
            shown = Path(args[0] if name in ("replace", "rename") else path).name
            self.report(name, shown)
            result = real(target, *args, **kwargs)
            if name == "open":
                self._remember(result, path)
            return result

        return call

    def _remember(self, descriptor: int, path: str) -> None:
        self._paths[descriptor] = path, os.fstat(descriptor).st_ino

    def _path_of(self, descriptor: int) -> str:
        """Return what was opened under a number, unless another file, of another thread say, has it by now."""
        path, inode = self._paths.get(descriptor, ("", 0))
        return path if path and os.fstat(descriptor).st_ino == inode else ""


class TappedFile(io.FileIO):
    """A file without a buffer that reports what is done with it."""

    def __init__(self, path: str, mode: str, report: Report) -> None:
        """Open the file."""
        super().__init__(path, mode)
        self._report, self._base = report, Path(path).name

    def write(self, data: Any) -> int:
        """Write as much as `report` lets pass."""
        limit = self._report("write", self._base)
        return super().write(data if limit is None else memoryview(data)[:limit]) or 0

    def readinto(self, buffer: Any) -> int:
        """Read."""
        self._report("read", self._base)
        return super().readinto(buffer) or 0

    def close(self) -> None:
        """Close; the system may report a failed write only now."""
        if not self.closed:
            super().close()
            self._report("close", self._base)


class Chaos(Observer):
    """Counts the events of a run, and acts at the one that CHAOS names.

    Events: `batch` and `step` (before and after a training step), `loss`, `evaluation` (a batch of it), `end_epoch`,
    `metrics` and `metrics_done` (around the line in metrics.jsonl), `save` (begins), `io` (any call to the disk during
    a save), and such a call by its name and file, as in `replace last.pth` or `fsync best.pth.tmp`. Saves go on in the
    background: at the last two kinds the loop may be some steps further, at all others no save is under way.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Put a counter in front of everything."""
        self.counts: Counter[str] = Counter()
        self.saver = trainer.saver
        event, number, action = (os.environ.get("CHAOS") or "none:0:none").split(":")
        self.plan, self.action = (event, int(number)), action

        self._wrap(trainer, "train_step", "batch", "step")
        self._wrap(trainer, "evaluation_step", "evaluation", None)
        self._wrap(trainer, "end_epoch", "end_epoch", None)
        self._wrap(trainer.saver, "begin_save", "save", None)
        self._wrap(trainer.observers.members["metrics"], "on_evaluation", "metrics", "metrics_done")
        loss = trainer.loss.function
        trainer.loss.function = lambda *args: self._spoil(loss(*args)) if trainer.model.training else loss(*args)
        Tap(trainer.saver.folder, self._disk).__enter__()

    def close(self) -> None:
        """Leave the counts behind."""
        if "CHAOS_COUNTS" in os.environ:
            Path(os.environ["CHAOS_COUNTS"]).write_text(json.dumps(self.counts))

    def _wrap(self, owner: Any, name: str, before: str, after: str | None) -> None:
        real = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._happens(before)
            result = real(*args, **kwargs)
            if after:
                self._happens(after)
            return result

        setattr(owner, name, wrapper)

    def _disk(self, call: str, file: str) -> None:
        self._happens("io")
        self._happens(f"{call} {file}")

    def _spoil(self, losses: Any) -> Any:
        return losses + float(self.action) if self._count("loss") else losses

    def _count(self, event: str) -> bool:
        self.counts[event] += 1
        return (event, self.counts[event]) == self.plan

    def _happens(self, event: str) -> None:
        if not self._count(event):
            return
        if "ONCE" in os.environ:
            if Path(os.environ["ONCE"]).exists():
                return
            Path(os.environ["ONCE"]).touch()
        if threading.current_thread() is threading.main_thread():
            self.saver.wait()  # so that what is left does not depend on how far the save before has come
        for name in self.action.split("+"):
            if name in ("KILL", "STOP"):
                os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
            else:
                assert os.getpgrp() == os.getpid(), "nobody else shall get the signal"
                os.killpg(os.getpgrp(), signal.Signals[f"SIG{name}"])
