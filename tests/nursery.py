"""Start many runs for the price of one: imports everything that a run needs, then forks a process for each.

Run in a project's folder. Orders come as lines of JSON on standard input, an answer to each goes to standard
output. Each run is a process, and a process group, of its own; all that it shares with the others is the import, also
of what the command line names.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

# Besides what train.py itself imports: what a run imports when it first needs it.
IMPORTS = (
    "train",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "torchmetrics.classification",
)


def start(order: dict[str, Any]) -> int:
    """Fork a process that does what `python <script> <words>` does, and return its number."""
    child = os.fork()
    if child == 0:
        leave(do(order))
    return child


def do(order: dict[str, Any]) -> int:
    """Run the script in this process, and return its exit code."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("/dev/null", order["stdout"], order["stderr"])):
        descriptor = os.open(name, (os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if number else os.O_RDONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(order["env"])
    sys.argv = list(order["argv"])
    module = importlib.import_module(Path(sys.argv[0]).stem)
    try:
        return int(module.run(module.main))
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1


def leave(code: int) -> NoReturn:
    """End as Python does, but do not take apart what was imported, which would take seconds."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Import, then take orders until standard input ends."""
    sys.path[0] = str(Path.cwd())
    for name in (*IMPORTS, *sys.argv[1:]):
        importlib.import_module(name)
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork")  # of workers, and not the imports all over again
    gc.freeze()  # else the first collection in each child would copy all that memory
    print("ready", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "argv" in order:
            answer = start(order)
        else:
            _, status = os.waitpid(order["wait"], os.WUNTRACED)
            stopped = os.WIFSTOPPED(status)
            answer = 1000 + os.WSTOPSIG(status) if stopped else os.waitstatus_to_exitcode(status)
        print(order["number"], answer, flush=True)


if __name__ == "__main__":
    main()
