"""A table of the model's layers, for the start of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from utils.patterns import class_name

# A table longer than this is no longer read; deep networks are then summed up by their upper parts.
MAX_ROWS = 40


class Row(NamedTuple):
    """A layer, or a parameter that a module holds beside its parts."""

    name: str
    type: str
    output: str
    parameters: list[nn.Parameter]


@contextmanager
def output_shapes(model: nn.Module) -> Iterator[dict[str, str]]:
    """Note the shape of what each module returns, under its name, while the model runs; no hook stays behind."""
    seen: dict[str, list[str]] = {}
    shapes: dict[str, str] = {}

    def note(name: str, module: nn.Module) -> RemovableHandle:
        return module.register_forward_hook(lambda _module, _inputs, output: add(name, describe(output)))

    def add(name: str, shape: str) -> None:
        every = seen.setdefault(name, [])
        if shape not in every:
            every.append(shape)
            shapes[name] = ", ".join(every[:2]) + (", …" if len(every) > 2 else "")

    handles = [note(name, module) for name, module in model.named_modules()]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


def layer_table(model: nn.Module, shapes: dict[str, str], groups: list[dict[str, Any]]) -> str:
    """Describe each layer: name, type, output shape, parameters, and the learning rate or "frozen".

    Args:
        model: the network.
        shapes: what `output_shapes` has seen of a run of it.
        groups: the optimizer's parameter groups.
    """
    rates = {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}
    lines = [("layer", "type", "output", "parameters", "learning rate")]
    for row in _rows(model, shapes):
        lines.append((row.name, row.type, row.output, f"{_size(row.parameters):,}", _rate(row.parameters, rates)))
    every = list(model.parameters())
    trainable = _size([parameter for parameter in every if parameter.requires_grad])
    lines.append(("all", class_name(model), shapes.get("", ""), f"{_size(every):,}", f"{trainable:,} trainable"))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _rows(model: nn.Module, shapes: dict[str, str]) -> list[Row]:
    """Pick the deepest level of the model that fits on the screen; if even the upmost does not, it is cut."""
    rows: list[Row] = []
    for depth in range(max(name.count(".") for name, _ in model.named_modules()), -1, -1):
        rows = list(_rows_at(model, depth, shapes))
        if len(rows) <= MAX_ROWS:
            return rows
    rest = rows[MAX_ROWS - 1 :]
    parameters = [parameter for row in rest for parameter in row.parameters]
    return [*rows[: MAX_ROWS - 1], Row(f"… {len(rest)} more", "", "", parameters)]


def _rows_at(model: nn.Module, depth: int, shapes: dict[str, str]) -> Iterator[Row]:
    """List the modules of one level, those above it without parts, and the own parameters of those that have parts."""
    for name, module in model.named_modules():
        level = name.count(".") if name else -1
        if level == depth or (name and level < depth and not any(module.children())):
            # A list of modules, say, has nothing that could be called.
            idle = "" if type(module).forward is nn.Module.forward else "not called"
            yield Row(name, class_name(module), shapes.get(name, idle), list(module.parameters()))
        elif level < depth:
            for own, parameter in module.named_parameters(prefix=name, recurse=False):
                yield Row(own, "Parameter", "", [parameter])


def _size(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _rate(parameters: list[nn.Parameter], rates: dict[int, float]) -> str:
    if not parameters:
        return ""
    trained = {f"{rates[id(p)]:.3g}" for p in parameters if p.requires_grad and id(p) in rates}
    waiting = {f"{rates[id(p)]:.3g}" for p in parameters if not p.requires_grad and id(p) in rates}
    frozen = any(id(p) not in rates for p in parameters)
    words = [*sorted(trained), *(["frozen"] if frozen else []), *(f"frozen, later {rate}" for rate in sorted(waiting))]
    return "; ".join(words)


def describe(value: Any) -> str:
    """Describe the shapes of nested tensors."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return " ".join(describe(entry) for entry in value)
    return type(value).__name__
