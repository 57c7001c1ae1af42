"""One job at a time in the background, whose error is not lost."""

import threading
from collections.abc import Callable


class BackgroundWriter:
    """Runs jobs in a thread, at most one at a time; what one raises is raised again where its owner next asks.

    Python waits for the thread before it exits, so that a job which was begun is also finished.
    """

    def __init__(self) -> None:
        """Have nothing to do."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begin a job, as soon as the one before is done."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is under way, and raise what the last job raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what the last job raised, without waiting for it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
