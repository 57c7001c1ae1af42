"""A table of the model's layers, for the start of a run."""

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

# A table longer than this is no longer read; deep networks are then summed up by their upper parts.
MAX_ROWS = 40


def layer_table(model: nn.Module, inputs: Any, groups: list[dict[str, Any]]) -> str:
    """Describe each layer: name, type, output shape, parameters, and the learning rate or "frozen".

    Args:
        model: in the mode, and on the device, in which it is to be run once.
        inputs: what the model is called with.
        groups: the optimizer's parameter groups.
    """
    shapes = _output_shapes(model, inputs)
    rates = {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}
    rows = [("layer", "type", "output", "parameters", "learning rate")]
    for name, module in _rows(model):
        parameters = list(module.parameters())
        size = sum(parameter.numel() for parameter in parameters)
        rows.append((name, type(module).__name__, shapes.get(name, "not used"), f"{size:,}", _rate(parameters, rates)))
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows.append(("all", type(model).__name__, shapes.get("", ""), f"{total:,}", f"{trainable:,} trainable"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _rows(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Pick the layers: those without parts of their own, or the deepest level that fits on the screen."""
    named = [(name, module) for name, module in model.named_modules() if name]
    leaves = [(name, module) for name, module in named if not any(module.children())]
    for depth in range(max((name.count(".") for name, _ in named), default=0), -1, -1):
        rows = [
            (name, module)
            for name, module in named
            if name.count(".") == depth or (name.count(".") < depth and not any(module.children()))
        ]
        if len(rows) <= MAX_ROWS:
            return rows
    return leaves[:MAX_ROWS]


def _rate(parameters: list[nn.Parameter], rates: dict[int, float]) -> str:
    if not parameters:
        return ""
    trained = {f"{rates[id(p)]:.3g}" for p in parameters if p.requires_grad and id(p) in rates}
    waiting = {f"{rates[id(p)]:.3g}" for p in parameters if not p.requires_grad and id(p) in rates}
    frozen = any(id(p) not in rates for p in parameters)
    words = [*sorted(trained), *(["frozen"] if frozen else []), *(f"frozen, later {rate}" for rate in sorted(waiting))]
    return "; ".join(words)


def _output_shapes(model: nn.Module, inputs: Any) -> dict[str, str]:
    """Run the model once and note the shape of what each module returns."""
    shapes: dict[str, str] = {}

    def note(name: str) -> RemovableHandle:
        module = model.get_submodule(name)
        return module.register_forward_hook(lambda _module, _inputs, output: shapes.__setitem__(name, describe(output)))

    handles = [note(name) for name, _ in model.named_modules()]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def describe(value: Any) -> str:
    """Describe the shapes of nested tensors."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return " ".join(describe(entry) for entry in value)
    return type(value).__name__
