"""Stop on SIGINT (Ctrl-C) and SIGTERM, but only where the run can be resumed."""

import multiprocessing
import os
import signal
import sys
from types import FrameType, TracebackType

from utils.distributed import Agreement
from utils.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptHandler:
    """While active, the first signal asks the loop to stop at its next safe point; a second one kills.

    A safe point is the end of a training step or of an evaluation batch, a fraction of a second away. Use it as
    a context manager in the main thread, and call `check` at the safe points. Under torchrun, which kills those who
    take too long, a second signal changes nothing.
    """

    def __init__(self) -> None:
        """Make a handler that has not been called yet."""
        self.received: int | None = None
        self._agree = Agreement()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "InterruptHandler":
        """Take the signals over, apart from those that this process was told to ignore, by `nohup` for instance."""
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Stop here if a signal has come, to whichever process.

        Raises:
            Interrupted: it has.
        """
        received = self._agree(self.received or 0)
        if received:
            raise Interrupted(received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            return
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return  # it may have been sent to all, and torchrun passes on its own
        # os.write and os._exit, because a signal may arrive in the middle of a print or of a clean-up.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nstopped at once by a second signal\n")
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(128 + number)
