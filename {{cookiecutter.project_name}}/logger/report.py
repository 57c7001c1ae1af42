"""The report: `report.html` in the run's folder, for a browser."""

from typing import TYPE_CHECKING

from logger.console import log
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
            try:
                # Imported here because only the end of a run needs it.
                from reporting.page import write_report
                from reporting.record import read_run

                write_report([read_run(self.run_dir)], self.run_dir / "report.html")
            except Exception as error:  # whatever it is, it must not hide why the run ends
                log.warning("there is no report of this run: %s", error or type(error).__name__)
