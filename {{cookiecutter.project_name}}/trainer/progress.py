"""How far a run has come."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class Progress:
    """Counts that only ever grow, apart from `batch`, which starts again in every epoch.

    Attributes:
        epoch: epochs that are done, their evaluation included.
        batch: training steps done in the epoch that is under way.
        step: training steps done in all.
        finished: the run has reached its end; it may still be resumed to train for more epochs.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    finished: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as plain types."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the counts over."""
        for field in fields(self):
            setattr(self, field.name, state[field.name])
