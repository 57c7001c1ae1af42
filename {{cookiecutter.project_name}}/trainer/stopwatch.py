"""Wall time of training steps, and how much of it was spent waiting for data."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from utils.distributed import world_size


@dataclass
class Lap:
    """What was measured over an epoch, or since the last log entry."""

    seconds: float = 0.0
    waiting: float = 0.0
    samples: int = 0

    def read(self) -> dict[str, float]:
        """Return the speed, and the share of the time that was spent waiting, under the names of a log entry."""
        seconds = max(self.seconds, 1e-9)
        samples = self.samples * world_size()
        return {"samples_per_second": samples / seconds, "data_wait": self.waiting / seconds}


class Stopwatch:
    """Measures an epoch's training steps; what a resumed epoch did before the stop does not count."""

    def __init__(self) -> None:
        """Stand at zero."""
        self.epoch, self.window = Lap(), Lap()
        self._since = time.perf_counter()

    def start(self) -> None:
        """Begin an epoch."""
        self.epoch = Lap()
        self._since = time.perf_counter()

    def fetch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Hand batches on, and measure how long they let one wait."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            waited = time.perf_counter() - begin
            self.epoch.waiting += waited
            self.window.waiting += waited
            yield batch

    def count(self, samples: int) -> None:
        """Count samples that this process was trained on; the others had as many."""
        self.epoch.samples += samples
        self.window.samples += samples

    def stop(self) -> None:
        """Read the time that has passed."""
        now = time.perf_counter()
        self.epoch.seconds += now - self._since
        self.window.seconds += now - self._since
        self._since = now

    def read(self) -> dict[str, float]:
        """Return what was measured in the epoch, under the names of a log entry."""
        return {"seconds": self.epoch.seconds} | self.epoch.read()

    def read_window(self) -> dict[str, float]:
        """Return what was measured since this was last called, evaluations left out."""
        self.stop()
        window, self.window = self.window, Lap()
        return window.read()
