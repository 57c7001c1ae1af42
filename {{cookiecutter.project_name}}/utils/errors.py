"""The ways in which a run may end early, and the exit code of each."""

import atexit
import errno
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from utils.distributed import local_rank, peer_was_lost, rank

# Ends a message about a part that the template can do without, and that this project lacks.
EXTRA = "the missing part is an extra: copy it, and what it imports, from a project generated with extras=full"


class UserError(Exception):
    """A mistake of the user: one readable message, exit code 2, no traceback."""


class ConfigError(UserError):
    """A config that cannot be used; `problems` has one line for each thing to mend."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        headline = "1 problem in the config:" if count == 1 else f"{count} problems in the config:"
        super().__init__("\n".join([headline, *self.problems]))


class Diverged(Exception):
    """The loss is no longer a finite number, since the step `ago` before the latest; exit code 3."""

    def __init__(self, message: str, ago: int | None = None) -> None:
        self.ago = ago
        super().__init__(message)


class RunFailed(Exception):
    """The machine let the run down, by a full disk for instance: a readable message, exit code 1."""


class Interrupted(Exception):
    """A signal asked the run to stop, and its checkpoint is written; exit code 128 + `signum`."""

    def __init__(self, signum: int, message: str = "stopped by a signal") -> None:
        self.signum = signum
        super().__init__(message)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error says that there is no space left, or none that this user may have."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _report_from_thread(args: threading.ExceptHookArgs) -> None:
    """Leave a full disk to the main thread, where the next write meets it too, and says so without a traceback."""
    if not disk_is_full(args.exc_value):
        threading.__excepthook__(args)


def _nobody_listens() -> bool:
    """Whether standard output is a pipe that its reader has closed, as `head` does; what is left for it is dropped."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        return True
    return False


def _said_before(error: BaseException | None) -> str | None:
    """Return how to go on with a run that was stopped, where Ctrl-C came once more before it could be said."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return str(error) if error else None


@contextmanager
def main_speaks_first() -> Iterator[None]:
    """Delay a mistake of the user in all processes but the main one; call it where they are still connected.

    Most mistakes are made in all of them. When the main process has said so, its end makes torchrun end the others,
    which need not repeat it; on a further machine the first process does the same for the rest. What one alone finds
    wrong it says a little later, while the others wait for it.
    """
    try:
        yield
    except UserError:
        time.sleep(min(rank(), 1) + min(local_rank(), 1))
        raise


def run(main: Callable[[], int]) -> int:
    """Call `main` and return the exit code of the process.

    What `main` returns is the exit code (0 for a run that finished). The errors above become their own
    code and a message on standard error. Everything else is unforeseen and keeps its traceback.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as a script has it while it imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    hook, threading.excepthook = threading.excepthook, _report_from_thread
    # Among all that was imported there is next to no garbage, and whenever Python looks for it that takes a tenth of a
    # second, and when it ends a whole one. (A script may have kept it from looking while it imports.)
    gc.freeze()
    gc.enable()
    atexit.register(gc.freeze)
    try:
        return main()
    except UserError as error:
        code, message = 2, str(error)
    except RunFailed as error:
        code, message = 1, str(error)
    except Diverged as error:
        code, message = 3, str(error)
    except KeyboardInterrupt as error:
        code, message = 130, _said_before(error) or "stopped"
    except Interrupted as error:
        code, message = 128 + error.signum, str(error)
    except BrokenPipeError:
        if not _nobody_listens():
            raise
        return 141  # 128 + SIGPIPE, as a shell reports it
    except RuntimeError as error:
        if not peer_was_lost(error):
            raise
        code, message = 1, "another process of this training has ended or cannot be reached, and this one ends with it"
    except OSError as error:
        if not disk_is_full(error):
            raise
        code, message = 1, "the disk is full; what was saved before is whole"
    finally:
        threading.excepthook = hook
    if rank() == 0 or code not in (3, 130, 143):  # these end all processes at once, and the main one speaks for them
        print(message, file=sys.stderr)
    return code
