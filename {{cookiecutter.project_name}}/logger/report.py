"""The report: `report.html` in the run's folder, for a browser."""

from contextlib import suppress
from typing import TYPE_CHECKING

from logger.observer import Observer

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class Report(Observer):
    """Writes the page when the run ends, however it ends; `python report.py` writes it at any other time."""

    _started = False

    def on_start(self, trainer: "Trainer") -> None:
        """Note that there is something to report."""
        self._started = True

    def close(self) -> None:
        """Write the page: last of all, when the pictures of other observers are there."""
        if self._started:
            # Imported here because only the end of a run needs it.
            from reporting.page import write_report
            from reporting.record import read_run

            # An error now must not hide why the run ends.
            with suppress(OSError):
                write_report([read_run(self.run_dir)], self.run_dir / "report.html")
