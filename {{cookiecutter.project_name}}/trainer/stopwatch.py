"""Wall time of an epoch's training steps."""

import time


class Stopwatch:
    """Measures seconds and samples per second; what a resumed epoch did before the stop does not count."""

    def __init__(self) -> None:
        """Stand at zero."""
        self.samples = 0
        self.seconds = 0.0
        self.start()

    def start(self) -> None:
        """Begin to measure."""
        self.samples = 0
        self._begin = time.perf_counter()

    def stop(self) -> None:
        """Read the time that has passed."""
        self.seconds = time.perf_counter() - self._begin

    def read(self) -> dict[str, float]:
        """Return what was measured, under the names of a log entry."""
        return {"seconds": self.seconds, "samples_per_second": self.samples / max(self.seconds, 1e-9)}
