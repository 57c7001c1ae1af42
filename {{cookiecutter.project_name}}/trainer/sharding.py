"""Fully sharded training (FSDP2): every process holds a share of each weight, its gradient and its optimizer state.

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023; Rajbhandari et al., "ZeRO", 2020.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from trainer.parallel import Parallel
from trainer.shard_writer import ShardWriter
from utils.config import TrainerSection
from utils.distributed import like, world_size
from utils.errors import UserError

# A part with fewer parameters is gathered together with what is around it: a message of its own would cost too much.
SMALLEST = 100_000


class Sharding(Parallel):
    """The strategy `fsdp`: every process has a share of the model.

    Gradients are exchanged after every piece of a batch: kept back until the last one, each process would have to hold
    all of them, and memory is what this is about.
    """

    def __init__(self, settings: TrainerSection, device: torch.device) -> None:
        """Remember what the config asks for."""
        super().__init__(settings, device)
        self._writer = ShardWriter() if settings.sharded_checkpoints else None

    def place(self, model: nn.Module) -> nn.Module:
        """Divide a model on the host among the processes' devices; on none of them it has to fit as a whole.

        Raises:
            UserError: the model has a parameter that cannot be divided.
        """
        try:
            mesh = init_device_mesh(self.device.type, (world_size(),))
            shard(model, mesh, bf16=self.settings.precision == "bf16")
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"trainer.strategy=fsdp cannot divide this model: {error}") from error
        return model

    def network(self, model: nn.Module) -> Any:
        """Return what is to be called in training: the model itself."""
        return model

    def snapshot(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copy what a checkpoint holds: all of it on the main process, or a share of it on each."""
        return self._writer.snapshot(state) if self._writer else super().snapshot(state)

    def write(self, state: dict[str, Any], paths: list[Path], *, step: int, finished: bool) -> None:
        """Write such a copy: one file, or a file and its shards."""
        if self._writer:
            self._writer.write(state, paths, step=step, finished=finished)
        else:
            super().write(state, paths, step=step, finished=finished)

    def divided(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Divide an optimizer's state as its parameters are divided."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def divided(number: int, value: Any) -> Any:
            tensor = isinstance(value, torch.Tensor) and value.shape == parameters[number].shape
            return like(value, parameters[number]) if tensor else value

        entries = {
            number: {name: divided(number, value) for name, value in entry.items()}
            for number, entry in state["state"].items()
        }
        return {**state, "state": entries}


def shard(model: nn.Module, mesh: DeviceMesh, bf16: bool = False) -> None:
    """Divide a model's parameters among the processes, in place; they keep their names.

    Each of its repeated parts is gathered just before it computes, and then made a share again, so that at no time a
    process holds more of the network than one of them.

    Args:
        model: what to divide.
        mesh: the processes.
        bf16: whether to gather the weights of parts in 16 bits, and compute these parts in them.
    """
    names = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for part in list(repeated_parts(model, largest=size(model) // 2)):
        if all(names[id(parameter)] == 1 for parameter in part.parameters()):  # else tied to something outside
            fully_shard(part, mesh=mesh, mp_policy=number_formats(part, bf16))
    # By default the outermost part stays whole after a forward pass, until the next backward one; but whoever asks the
    # main process's model for its weights in between makes it a share again there, and there alone.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def number_formats(part: nn.Module, bf16: bool) -> MixedPrecisionPolicy:
    """Return the number formats of a part; its shares, and sums of its gradients, always are in 32 bits.

    Of weights that are gathered in 32 bits, autocast makes copies in 16, and they are kept for the backward pass: in
    the end all of the model, on every process. Two kinds stay in 32 bits all the same: fp16, whose range is too small
    for what goes from part to part, and parts with batch normalisation, whose weights cannot have 16 bits beside
    statistics of 32.
    """
    if not bf16 or any(isinstance(module, _NormBase) for module in part.modules()):
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def repeated_parts(module: nn.Module, largest: int) -> Iterator[nn.Module]:
    """Go through the entries of a network's `ModuleList` and `Sequential`, and of those that are large, through theirs.

    Args:
        module: where to look.
        largest: parameters of the largest part that is taken as it is.
    """
    for child in module.children():
        if isinstance(module, nn.ModuleList | nn.Sequential) and SMALLEST <= size(child) <= largest:
            yield child
        else:
            yield from repeated_parts(child, largest)


def size(module: nn.Module) -> int:
    """Count parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
