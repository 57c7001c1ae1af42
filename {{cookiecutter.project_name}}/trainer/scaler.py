"""From losses to gradients: of a batch in pieces, of several processes, and in 16 bits."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from data_loaders.sampler import Share
from trainer.meter import Weighted
from utils.device import map_tensors, number_of_samples
from utils.distributed import summed, whole, world_size


class Scaler:
    """Makes the gradient of the mean loss over the whole batch, however it is divided.

    A batch may go through the model in pieces (gradient accumulation), and its samples are divided among the processes.
    Pieces do not count the same: the last one may be shorter, and in a padded batch tokens count, not sequences. So
    the sums of all pieces are added up, with their gradients, and divided by the sum of the weights in the end.

    With `fp16` the loss is also multiplied by a large number, lest small gradients vanish; where gradients overflow
    the step is left out and the number becomes smaller (Micikevicius et al., "Mixed Precision Training", 2018).
    """

    def __init__(self, optimizer: Optimizer, device: torch.device, pieces: int, fp16: bool) -> None:
        """Prepare for batches in `pieces` pieces on a device."""
        self.optimizer = optimizer
        self.count = pieces
        self.divided = pieces > 1 or world_size() > 1
        self.fp16 = fp16
        self.factor = torch.tensor(65536.0, device=device)  # both stay on the device: to read them would mean to wait
        self.steps = torch.tensor(0, device=device)
        self.overflow: torch.Tensor | None = None

    def pieces(self, batch: Any, share: Share | None, last: Callable[[bool], None]) -> Iterable[Any]:
        """Divide a batch by its samples.

        Args:
            batch: this process's share of the batch, or a sample to stand in for it where it is empty.
            share: how large that is, if there are several processes: all take the same number of pieces, and none of
                these is empty.
            last: told before each piece whether it is the last one.
        """
        self._losses: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []
        self._idle = share is not None and share.own == 0
        return self._divide(batch, share, last) if self.divided else (batch,)

    def _divide(self, batch: Any, share: Share | None, last: Callable[[bool], None]) -> Iterator[Any]:
        samples = number_of_samples(batch)
        count = max(1, min(self.count, share.smallest if share else samples))
        bounds = [samples * number // count for number in range(count + 1)]
        for begin, end in pairwise(bounds):
            last(end == bounds[-1])
            self._samples = end - begin
            yield map_tensors(itemgetter(slice(begin, end)), batch)

    def scale(self, losses: torch.Tensor | Weighted) -> torch.Tensor:
        """Return what to take the gradient of: the mean of a batch's losses, or the sum of a piece's, scaled.

        Args:
            losses: one value per sample, with weights or without, or the mean of the piece.
        """
        loss = self._sum(losses) if self.divided else _mean(losses)
        self._losses.append(loss.detach())
        return loss * self.factor if self.fp16 else loss

    def _sum(self, losses: torch.Tensor | Weighted) -> torch.Tensor:
        if isinstance(losses, Weighted):
            loss, weight = (losses.values * losses.weights).float().sum(), losses.weights.float().sum()
        elif losses.ndim:
            loss, weight = losses.float().sum(), losses.new_tensor(float(losses.numel()), dtype=torch.float32)
        else:
            weight = losses.new_tensor(float(self._samples), dtype=torch.float32)
            loss = losses.float() * weight
        self._weights.append(weight * (not self._idle))
        return loss * (not self._idle)

    def unscale(self) -> torch.Tensor:
        """Turn the gradients into those of the mean over the whole batch, and return that mean."""
        loss = self._losses[0]
        if self.divided:
            total = torch.stack([torch.stack(self._losses).sum(), torch.stack(self._weights).sum()])
            summed(total)  # one exchange for both: the sum of the losses, and of what counts
            loss = total[0] / total[1]
            self._multiply_gradients(world_size() / total[1])  # processes have averaged theirs
        if self.fp16:
            self._multiply_gradients(1 / self.factor)
            self._adapt()
        return loss

    def _adapt(self) -> None:
        """Halve the factor after an overflow, and double it after 2,000 steps without one."""
        self.overflow = ~whole(nn.utils.get_total_norm(self._gradients())).isfinite()
        grow = self.steps == 1999
        self.factor = self.factor * torch.where(self.overflow, 0.5, torch.where(grow, 2.0, 1.0))
        self.steps = torch.where(self.overflow | grow, 0, self.steps + 1)

    def _gradients(self) -> list[torch.Tensor]:
        parameters = (p for group in self.optimizer.param_groups for p in group["params"])
        return [p.grad for p in parameters if p.grad is not None]

    def _multiply_gradients(self, factor: torch.Tensor) -> None:
        for gradient in self._gradients():
            gradient *= factor

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, and the steps since it changed."""
        return {"factor": self.factor, "steps": self.steps} if self.fp16 else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over; a run that has changed its precision begins anew."""
        if self.fp16 and state:
            self.factor, self.steps = state["factor"].to(self.factor.device), state["steps"].to(self.steps.device)


def _mean(losses: torch.Tensor | Weighted) -> torch.Tensor:
    if isinstance(losses, Weighted) or not losses.ndim or not losses.numel():
        return losses.mean()
    flat = losses if losses.ndim == 1 else losses.flatten()
    if flat.element_size() < 4:
        flat = flat.float()  # 16 bits are too few for the weight
    # On the CPU and for small batches, forward and backward take a fifth less time than those of `mean`.
    return flat.dot(_even_weights(flat.numel(), flat.dtype, flat.device))


@lru_cache(maxsize=4)
def _even_weights(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # whoever asks first
        return torch.full((count,), 1 / count, dtype=dtype, device=device)
