"""The model on several processes. Here: a copy on each; the other strategies are files of their own."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from trainer.batch_norm import synchronise_batch_norm
from trainer.checkpoint import save_checkpoint
from trainer.snapshot import snapshot
from utils.compiling import compile_model
from utils.config import TrainerSection
from utils.distributed import is_main, world_size
from utils.errors import UserError
from utils.registry import find


class Parallel:
    """The strategy `ddp`: every process has a copy of the model. A single process needs no other.

    A strategy says where the model lies, what is called in training, when gradients are exchanged, and how a
    checkpoint is written and taken over.
    """

    def __init__(self, settings: TrainerSection, device: torch.device) -> None:
        """Remember what the config asks for."""
        self.settings = settings
        self.device = device
        self._network: nn.Module | None = None
        self._trained: list[bool] = []

    def prepare(self, model: nn.Module) -> nn.Module:
        """Change what has to be changed before the optimizer is built; the names of parameters stay."""
        if world_size() > 1:
            model = synchronise_batch_norm(model, self.device, bool(self.settings.compile))
        model = self.place(model)
        if self.settings.compile:
            compile_model(model, self.settings.compile)
        return model

    def place(self, model: nn.Module) -> nn.Module:
        """Bring a model from the host to its device."""
        if self.settings.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(self.device)

    def network(self, model: nn.Module) -> Any:
        """Return what is to be called in training: the model, or DistributedDataParallel around it.

        Call it in every epoch: the wrapper has to be made anew when other parameters are trained than before.
        """
        if world_size() == 1:
            return model
        trained = [parameter.requires_grad for parameter in model.parameters()]
        if self._network is None or trained != self._trained:
            self._trained = trained
            devices = [self.device] if self.device.type == "cuda" else None
            self._network = _Copy(model, devices, gradient_as_bucket_view=True)  # without copies of all gradients
        return self._network

    def exchange_gradients(self, now: bool) -> None:
        """Say whether the next backward pass exchanges gradients, or only the one after the last piece of a batch."""
        if self._network is not None:
            self._network.require_backward_grad_sync = now  # type: ignore[assignment]

    def snapshot(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copy what a checkpoint holds, so that training can go on; all processes take part."""
        return snapshot(state)

    def write(self, state: dict[str, Any], paths: list[Path], *, step: int, finished: bool) -> None:
        """Write such a copy to one or more files of one folder; called in the background, on all processes."""
        if is_main():
            save_checkpoint(state, paths, step=step, finished=finished)

    def divided(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of an optimizer from a checkpoint as it has to lie on this process."""
        return state


class _Copy(DistributedDataParallel):
    """Says in words what DistributedDataParallel says in indices."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model.

        Raises:
            UserError: parameters had no part in the step before.
        """
        try:
            return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            found = re.search(r"did not receive grad for rank \d+: ([\d ]+)", str(error))
            if not found:
                raise
            trained = [name for name, parameter in self.module.named_parameters() if parameter.requires_grad]
            idle = [trained[int(number)] for number in found[1].split()]
        raise UserError(
            f"these parameters had no part in the latest training step: {', '.join(idle)}\nseveral processes can only "
            "average the gradients of parameters that are used in every step: use them, freeze them (`freeze` in the "
            "config), or train in one process or with trainer.strategy=fsdp"
        )


def build_parallel(settings: TrainerSection, device: torch.device) -> Parallel:
    """Build the strategy that the config names; a single process has the model to itself."""
    strategy = settings.strategy if world_size() > 1 else "ddp"
    built: Parallel = find("strategy", strategy)(settings, device)
    return built
