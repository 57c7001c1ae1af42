"""A moving average of the weights, which often generalises better than the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from utils.distributed import like


class WeightAverage:
    """The exponential moving average of a model's weights (Polyak and Juditsky, 1992; Tarvainen and Valpola, 2017).

    In the first steps the average reaches back less far, lest the random starting weights stay in it for long: the
    decay is at most `(1 + steps) / (10 + steps)`. Buffers, such as the statistics of BatchNorm, are averaged as well.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights as they are."""
        self.model = model
        self.decay = decay
        tensors = [*model.named_parameters(), *model.named_buffers()]  # those with several names once
        saved = model.state_dict().keys()
        self.values = {name: tensor.detach() for name, tensor in tensors if name in saved}
        self.averages = {name: value.clone() for name, value in self.values.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a training step, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            if value.is_floating_point():
                self.averages[name].lerp_(value, share)
            else:
                self.averages[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights within the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, value in self.values.items():
            held = value.clone()
            value.copy_(self.averages[name])
            self.averages[name].copy_(held)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights, as the model's own `state_dict` would."""
        with self.applied():
            return {name: value.clone() for name, value in self.model.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take averaged weights over."""
        for name, average in self.averages.items():
            average.copy_(like(state[name], average))
