"""The file that TensorBoard reads."""

import os
import socket
import time
from pathlib import Path
from typing import Any

EVENT_FILES = "events.out.tfevents.*"


class EventFile:
    """Writes events for TensorBoard, each as soon as it is handed over.

    TensorBoard reads the files of a run in the order of their names, and these begin with the time. PyTorch's
    `SummaryWriter` takes the time from the clock, so what was written by a run that goes on where the clock is behind,
    or within the same second, may never be shown. Here a new file always comes after those that are there.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """Begin a new file in `folder`; a TensorBoard that is open forgets what it knows from `first_step` on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped,unused-ignore]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped,unused-ignore]

        fields = (path.name.split(".")[3] for path in folder.glob(EVENT_FILES))
        seconds = max([int(time.time()), *(int(field) + 1 for field in fields if field.isdigit())])
        name = f"{EVENT_FILES[:-1]}{seconds:010d}.{socket.gethostname()}.{os.getpid()}"
        self._new_event = Event
        self._records = RecordWriter(open(folder / name, "xb"))  # noqa: SIM115 - open as long as the run
        self.add(step=first_step, file_version="brain.Event:2")
        self.add(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, **content: Any) -> None:
        """Write an event.

        Args:
            content: fields of an event, such as `step` and `summary`
                (https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto).

        Raises:
            OSError: the file cannot be written.
        """
        self._records.write(self._new_event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()
