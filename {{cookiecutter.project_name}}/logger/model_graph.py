"""The model's graph for TensorBoard."""

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from utils.compiling import uncompiled
from utils.device import move
from utils.distributed import share

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def model_graph(trainer: "Trainer") -> Any:
    """Trace the model on two samples of the validation data, and leave it as it was.

    Returns:
        The graph as TensorBoard takes it, a message of type `GraphDef`.

    Raises:
        Exception: anything at all, for a model that cannot be traced; not every model can.
    """
    from torch.utils.tensorboard._pytorch_graph import graph

    loader, model = trainer.loaders.valid, trainer.model
    if any(share(parameter) is not parameter for parameter in model.parameters()):
        raise RuntimeError("it is divided among the processes, of which only this one is watched")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), uncompiled(model), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            batch = move(loader.load(list(range(min(2, len(loader.dataset))))), trainer.device)
            return graph(model, _inputs(trainer, model, batch))[0]
    finally:
        for module, mode in modes.items():
            module.training = mode


def _inputs(trainer: "Trainer", model: nn.Module, batch: Any) -> tuple[Any, ...]:
    """Return what `evaluation_step` hands to the model, whatever the batch looks like."""
    seen: list[tuple[Any, ...]] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    try:
        trainer.evaluation_step(batch)
    finally:
        handle.remove()
    return seen[0]
