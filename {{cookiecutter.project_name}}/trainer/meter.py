"""Means over samples that are exact, cost a step almost nothing, and continue across a restart."""

import math
from typing import Any

import torch


class Meter:
    """Adds up per-sample values: over an epoch, and over the steps since the last log entry.

    A step leaves its sums on the device, where they wait for `flush`: reading them at once would make
    the host wait for the device in every step. They are then added one after the other in Python's 64-bit
    floats, so that the totals have the same bits however often, and wherever, they were flushed.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.epoch: dict[str, list[float]] = {}
        self.window: dict[str, list[float]] = {}
        self._waiting: list[tuple[str, torch.Tensor, int]] = []

    def update(self, name: str, values: torch.Tensor, samples: int) -> None:
        """Take in one step's values of a quantity.

        Args:
            name: the quantity.
            values: one value per sample, or one value that is already the mean of the batch.
            samples: samples in the batch.
        """
        values = values.detach()
        if values.ndim == 0:
            self._waiting.append((name, values * samples, samples))
        else:
            dtype = torch.float32 if not values.is_floating_point() or values.element_size() < 4 else None
            self._waiting.append((name, values.sum(dtype=dtype), values.numel()))

    def flush(self) -> list[float]:
        """Read what waits, in one transfer per quantity, into the totals.

        Returns:
            The sums of "loss" of the steps that were waiting, oldest first.
        """
        sums: dict[str, list[torch.Tensor]] = {}
        counts: dict[str, list[int]] = {}
        for name, total, count in self._waiting:
            sums.setdefault(name, []).append(total)
            counts.setdefault(name, []).append(count)
        self._waiting.clear()
        losses: list[float] = []
        for name, tensors in sums.items():
            numbers = torch.stack(tensors).tolist()
            if name == "loss":
                losses = numbers
            for totals in (self.epoch, self.window):
                entry = totals.setdefault(name, [0.0, 0.0])
                for number, count in zip(numbers, counts[name], strict=True):
                    entry[0] += number
                    entry[1] += count
        return losses

    def means(self) -> dict[str, float]:
        """Return each quantity's mean over the samples of the epoch so far."""
        self.flush()
        return _means(self.epoch)

    def window_means(self) -> dict[str, float]:
        """Return each quantity's mean since this was last called."""
        self.flush()
        means = _means(self.window)
        self.window = {}
        return means

    def start_epoch(self) -> None:
        """Forget the epoch's totals."""
        self.flush()
        self.epoch = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the totals as plain types."""
        self.flush()
        return {
            "epoch": {name: list(entry) for name, entry in self.epoch.items()},
            "window": {name: list(entry) for name, entry in self.window.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the totals over."""
        self._waiting.clear()
        self.epoch = {name: list(entry) for name, entry in state["epoch"].items()}
        self.window = {name: list(entry) for name, entry in state["window"].items()}


def _means(totals: dict[str, list[float]]) -> dict[str, float]:
    return {name: total / count if count else math.nan for name, (total, count) in totals.items()}
