"""The one interface through which a run is watched."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.seeding import random_state_kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.trainer import StepResult, Trainer
    from utils.errors import Diverged


class Observer:
    """Told what happens in a run; override what you need.

    To add a tracker of your own, write a subclass in a new file of this folder, `logger/my_tracker.py`, and
    name the file in the config: `"loggers": {"my_tracker": true}`. The constructor gets the run's folder,
    and `{"my_tracker": {"option": 1}}` hands it further arguments.
    """

    def __init__(self, run_dir: Path) -> None:
        """Prepare to watch the run whose files lie in `run_dir`."""
        self.run_dir = run_dir

    def on_start(self, trainer: "Trainer") -> None:
        """Training starts or goes on; all state has been restored."""

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """`log_every` steps have passed; `scalars` are their means, such as `train_loss` and `lr`."""

    def on_evaluation_batch(self, batch: Any, result: "StepResult") -> None:
        """A batch of the validation was evaluated; read nothing from the device here, for that would wait for it."""

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """An epoch (counted from 1) and its evaluation are done; `scalars` are those of the whole epoch."""

    def on_figure(self, name: str, figure: "Figure", step: int) -> None:
        """Another observer has drawn a picture for all, by `trainer.observers.on_figure(…)`."""

    def on_text(self, name: str, text: str, step: int) -> None:
        """Another observer has written a text for all, by `trainer.observers.on_text(…)`; show it as it is."""

    def on_end(self, trainer: "Trainer") -> None:
        """Training has reached its end; not called when it was stopped before."""

    def on_failure(self, trainer: "Trainer", error: "Diverged") -> None:
        """Training breaks off because a loss is not finite; `error.ago` says how many steps before the latest."""

    def close(self) -> None:
        """Finish writing; called last, however the run ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain types; called at every checkpoint."""
        return {}

    def sync(self) -> None:
        """See to the disk what was written; called in the background, before a checkpoint that counts on it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state over, before `on_start`."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, members: dict[str, Observer]) -> None:
        """Hold observers by name; the names under which their state is saved."""
        self.members = members

    def on_start(self, trainer: "Trainer") -> None:
        """Tell all; whatever they draw at random, training goes on with its own numbers."""
        with random_state_kept():
            for member in self.members.values():
                member.on_start(trainer)

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """Tell all."""
        for member in self.members.values():
            member.on_step(step, scalars)

    def on_evaluation_batch(self, batch: Any, result: "StepResult") -> None:
        """Tell all."""
        for member in self.members.values():
            member.on_evaluation_batch(batch, result)

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Tell all."""
        for member in self.members.values():
            member.on_evaluation(step, epoch, scalars, is_best)

    def on_figure(self, name: str, figure: "Figure", step: int) -> None:
        """Tell all."""
        for member in self.members.values():
            member.on_figure(name, figure, step)

    def on_text(self, name: str, text: str, step: int) -> None:
        """Tell all."""
        for member in self.members.values():
            member.on_text(name, text, step)

    def on_end(self, trainer: "Trainer") -> None:
        """Tell all."""
        for member in self.members.values():
            member.on_end(trainer)

    def on_failure(self, trainer: "Trainer", error: "Diverged") -> None:
        """Tell all."""
        for member in self.members.values():
            member.on_failure(trainer, error)

    def close(self) -> None:
        """Close all."""
        for member in self.members.values():
            member.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each."""
        return {name: member.state_dict() for name, member in self.members.items()}

    def sync(self) -> None:
        """Let all see to the disk what they have written."""
        for member in self.members.values():
            member.sync()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give each its state; an observer that was added since has none yet."""
        for name, member in self.members.items():
            if name in state:
                member.load_state_dict(state[name])


class AppendOnlyFiles:
    """Files of a run that only grow, and can be cut back to the length that they had at a checkpoint.

    After a kill they may be ahead of the checkpoint. The resumed run writes the same steps again, so what lies
    beyond the checkpoint has to go.
    """

    def __init__(self, folder: Path, pattern: str) -> None:
        """Look after the files in `folder` whose names match `pattern`."""
        self.folder = folder
        self.pattern = pattern

    def sizes(self) -> dict[str, int]:
        """Return the length of each file, in bytes."""
        return {path.name: path.stat().st_size for path in sorted(self.folder.glob(self.pattern))}

    def sync(self) -> None:
        """See the files to the disk."""
        for path in self.folder.glob(self.pattern):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())

    def cut_back(self, sizes: dict[str, int]) -> None:
        """Cut each file to the length in `sizes`, and remove files that did not exist then."""
        for path in self.folder.glob(self.pattern):
            if path.name not in sizes:
                path.unlink()
            elif path.stat().st_size > sizes[path.name]:
                os.truncate(path, sizes[path.name])
