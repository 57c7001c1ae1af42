"""Watch one metric: is this evaluation the best so far, and has there been none for too long?"""

import math
from typing import Any


class Monitor:
    """The best value of a metric, where it was reached, and how many evaluations ago."""

    def __init__(self, rule: str | None, patience: int | None = None) -> None:
        """Set the rule.

        Args:
            rule: "max val_accuracy" or "min val_loss", as in the config; None watches nothing.
            patience: evaluations without a new best after which to stop; None never stops.
        """
        self.rule = rule
        self.mode, self.metric = rule.split() if rule else ("min", "")
        self.patience = patience
        self.best: float | None = None
        self.best_epoch = 0
        self.since_best = 0

    def update(self, metrics: dict[str, float], epoch: int) -> bool:
        """Take an evaluation in, and say whether it is the best so far.

        A NaN is never the best: it compares with nothing.
        """
        if not self.metric:
            return False
        value = metrics[self.metric]
        sign = 1 if self.mode == "max" else -1
        if not math.isnan(value) and (self.best is None or sign * value > sign * self.best):
            self.best, self.best_epoch, self.since_best = value, epoch, 0
            return True
        self.since_best += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training should stop early."""
        return self.patience is not None and self.since_best >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart."""
        return {
            "rule": self.rule,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "since_best": self.since_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state over, unless it belongs to another rule: its best value would mean nothing."""
        if state["rule"] == self.rule:
            self.best, self.best_epoch = state["best"], state["best_epoch"]
            self.since_best = state["since_best"]
