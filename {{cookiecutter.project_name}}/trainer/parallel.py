"""The model on several processes: a copy on each (DistributedDataParallel), or a share of it on each (FSDP2)."""

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.batch_norm import synchronise_batch_norm
from utils.config import TrainerSection
from utils.distributed import world_size


class Parallel:
    """Prepares a model for `trainer.strategy`; with one process, and `ddp`, it leaves it as it is."""

    def __init__(self, settings: TrainerSection, device: torch.device) -> None:
        """Remember what the config asks for."""
        self.settings = settings
        self.device = device
        self.sharded = settings.strategy == "fsdp" and world_size() > 1
        self._network: nn.Module | None = None
        self._trained: list[bool] = []

    def prepare(self, model: nn.Module) -> nn.Module:
        """Change what has to be changed before the optimizer is built; the names of parameters stay.

        Args:
            model: on its device.
        """
        if self.settings.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if world_size() > 1:
            model = synchronise_batch_norm(model, self.device)
        if self.sharded:
            from trainer.sharding import shard

            shard(model)
        if self.settings.compile:
            model.compile()  # in place: wrapped by torch.compile, every name would get another beginning
        return model

    def network(self, model: nn.Module) -> Any:
        """Return what is to be called in training: the model, or DistributedDataParallel around it.

        Call it in every epoch: the wrapper has to be made anew when other parameters are trained than before.
        """
        if world_size() == 1 or self.sharded:
            return model
        trained = [parameter.requires_grad for parameter in model.parameters()]
        if self._network is None or trained != self._trained:
            self._trained = trained
            devices = [self.device] if self.device.type == "cuda" else None
            self._network = DistributedDataParallel(model, devices)
        return self._network

    def exchange_gradients(self, model: nn.Module, now: bool) -> None:
        """Say whether the next backward pass exchanges gradients, or only the one after the last piece of a batch."""
        if self.sharded:
            model.set_requires_gradient_sync(now)  # type: ignore[operator]
        elif self._network is not None:
            self._network.require_backward_grad_sync = now  # type: ignore[assignment]
