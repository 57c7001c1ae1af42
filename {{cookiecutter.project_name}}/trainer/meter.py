"""Means over samples that are exact, cost a step almost nothing, and continue across a restart."""

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch

from utils.distributed import gathered


@dataclass
class Weighted:
    """Values that do not all count the same: in a padded batch, say, those of real tokens count and others do not.

    Attributes:
        values: any shape.
        weights: the same shape; 1 or True for what counts, 0 or False for what does not, or anything between.
    """

    values: torch.Tensor
    weights: torch.Tensor

    def mean(self) -> torch.Tensor:
        """Return the mean over what counts."""
        return (self.values * self.weights).sum() / self.weights.sum()


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
        self._waiting: list[tuple[str, torch.Tensor, int | torch.Tensor]] = []

    def update(self, name: str, values: torch.Tensor | Weighted, samples: int) -> None:
        """Take in one step's values of a quantity; call it under `torch.no_grad()`, or it keeps the graph behind them.

        Args:
            name: the quantity.
            values: one value per sample, or one value that is already the mean of the batch.
            samples: samples in the batch.
        """
        if isinstance(values, Weighted):
            total = (values.values * values.weights).sum(dtype=torch.float32)
            self._waiting.append((name, total, values.weights.sum()))
            return
        if values.ndim == 0:
            self._waiting.append((name, values * samples, samples))
        else:
            dtype = torch.float32 if not values.is_floating_point() or values.element_size() < 4 else None
            self._waiting.append((name, values.sum(dtype=dtype), values.numel()))

    def flush(self) -> list[float]:
        """Read what waits, in one transfer per quantity, into the totals.

        Returns:
            The sums of "loss" of the steps that were waiting, oldest first; of several processes added up.
        """
        sums: dict[str, list[torch.Tensor]] = {}
        counts: dict[str, list[int | torch.Tensor]] = {}
        for name, total, count in self._waiting:
            sums.setdefault(name, []).append(total)
            counts.setdefault(name, []).append(count)
        self._waiting.clear()
        read = {name: (torch.stack(tensors).tolist(), _numbers(counts[name])) for name, tensors in sums.items()}
        losses: list[float] = []
        for of_process in gathered(read):
            for name, (numbers, weights) in of_process.items():
                if name == "loss":
                    losses = [a + b for a, b in zip_longest(losses, numbers, fillvalue=0.0)]
                for totals in (self.epoch, self.window):
                    entry = totals.setdefault(name, [0.0, 0.0])
                    for number, weight in zip(numbers, weights, strict=True):
                        entry[0] += number
                        entry[1] += weight
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


def _numbers(counts: list[int | torch.Tensor]) -> list[float]:
    """Read counts, those that lie on the device in one transfer."""
    tensors = [count for count in counts if isinstance(count, torch.Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(read) if isinstance(count, torch.Tensor) else count for count in counts]


def _means(totals: dict[str, list[float]]) -> dict[str, float]:
    return {name: total / count if count else math.nan for name, (total, count) in totals.items()}
