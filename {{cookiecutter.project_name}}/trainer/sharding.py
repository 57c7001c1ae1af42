"""Fully sharded training (FSDP2): every process holds a share of each weight, its gradient and its optimizer state.

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023; Rajbhandari et al., "ZeRO", 2020.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from utils.distributed import like

# A part with fewer parameters is gathered together with what is around it: a message of its own would cost too much.
SMALLEST = 100_000


def shard(model: nn.Module) -> None:
    """Divide a model's parameters among the processes, in place; they keep their names.

    The repeated parts of a network, which are the entries of its `ModuleList` and `Sequential`, are gathered one at a
    time, just before they compute, so that at no time a process holds more of the network than one of them.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList | nn.Sequential):
            for part in module:
                if sum(parameter.numel() for parameter in part.parameters()) >= SMALLEST:
                    fully_shard(part)
    # By default the outermost part stays whole after a forward pass, until the next backward one; but whoever asks the
    # main process's model for its weights in between makes it a share again there, and there alone.
    fully_shard(model, reshard_after_forward=True)


def divided_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Divide an optimizer's state as its parameters are divided; a checkpoint has all of it in one piece."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def divided(number: int, value: Any) -> Any:
        parameter = parameters[number]
        return like(value, parameter) if isinstance(value, torch.Tensor) and value.shape == parameter.shape else value

    entries = {
        number: {name: divided(number, value) for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}
