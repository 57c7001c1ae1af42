"""Hooks that measure what passes through a model's layers, forward and backward, and find what went wrong first."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from utils.device import all_finite
from utils.distributed import share
from utils.patterns import class_name

Entry = tuple[str, torch.Tensor]  # a module's name, and numbers that are still on the device


class LayerProbe:
    """Measures one step, or several. Nothing is read from the device before `read` or `first_not_finite`.

    A forward hook on each module sees its output, and sets a hook on that tensor, which catches its gradient. That is
    what `register_full_backward_hook` hands over as `grad_output`, to the bit, and it is there for every module. The
    other comes at a price: it passes inputs and outputs through an autograd function of its own, so that no layer may
    work in place on them (`ReLU(inplace=True)` after it raises an error); it does not fire for outputs that are not
    a tensor or a tuple of tensors; and it changes the graph that is to be looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare to measure a model; no hook is set yet."""
        self.model = model
        self._handles: list[RemovableHandle] = []
        self._forward: list[Entry] = []
        self._backward: list[Entry] = []
        self._weights: list[Entry] = []
        self._alive: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "LayerProbe":
        """Set the hooks."""
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_hook(partial(self._after_forward, name)))
        return self

    def __exit__(self, *_: object) -> None:
        """Measure the gradients of the parameters, as they are now, and remove the hooks."""
        if not self._handles:
            return
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                self._weights.append((name.rpartition(".")[0], root_mean_square(share(parameter.grad))[None]))
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def _after_forward(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = list(floats(output))
        ranges = [each.detach().aminmax() for each in floats(inputs)] if outputs else []
        for tensor in outputs:
            values = tensor.detach().float()
            mean = values.mean()
            # Several times faster on a CPU than `std`. And a range is not finite if any value is not.
            measured = [mean, root_mean_square(values - mean), *values.aminmax(), *chain(*ranges)]
            self._forward.append((name, torch.stack([number.to(values) for number in measured])))
            if can_die(module) and tensor.ndim > 1:
                unit = 1 if tensor.ndim > 3 else tensor.ndim - 1  # channels of images, else the last dimension
                alive = (values != 0).any(dim=[dim for dim in range(tensor.ndim) if dim != unit])
                known = self._alive.get(name)
                self._alive[name] = alive if known is None or known.shape != alive.shape else alive | known
            if tensor.requires_grad:
                tensor.register_hook(partial(self._after_backward, name))

    def _after_backward(self, name: str, gradient: torch.Tensor) -> None:
        values = gradient.detach().float()
        self._backward.append((name, torch.stack([root_mean_square(values), *values.aminmax()])))

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what was measured of each layer, in the order in which the layers ran, and forget it.

        A layer is a module that has no modules in it, or parameters of its own. Its entry holds `mean`, `std` and
        `max` of its output (the latter of absolute values), `gradient` of its output and `weight_gradient`
        (root mean squares), and of an activation `units` and how many of them are `dead`: 0 for every sample. Of a
        layer that ran several times, it is the mean over all. With fp16, or a batch in pieces, the gradient of an
        output is that of the loss before it is scaled back.
        """
        layers: dict[str, dict[str, Any]] = {}
        modules = dict(self.model.named_modules())
        for name, rows in _numbers(self._forward).items():
            if not any(modules[name].children()) or any(True for _ in modules[name].parameters(recurse=False)):
                means, stds, lows, highs, *_ = zip(*rows, strict=True)
                mean = fmean(means)
                std = math.sqrt(fmean(std**2 + (each - mean) ** 2 for std, each in zip(stds, means, strict=True)))
                layers[name] = {"mean": mean, "std": std, "max": max(map(abs, lows + highs))}
        for name, rows in _numbers(self._backward).items():
            if name in layers:
                layers[name]["gradient"] = math.sqrt(fmean(row[0] ** 2 for row in rows))
        for name, rows in _numbers(self._weights).items():
            if name in layers:
                layers[name]["weight_gradient"] = max(row[0] for row in rows)
        for name, alive in self._alive.items():
            if name in layers:
                layers[name] |= {"units": alive.numel(), "dead": alive.numel() - int(alive.sum())}
        self._forward, self._backward, self._weights, self._alive = [], [], [], {}
        return layers

    def first_not_finite(self) -> str | None:
        """Say where the first value came from that is NaN or infinite; None if there is none."""
        before = ""
        for name, row in _read(self._forward):
            of_output, of_inputs = row[2:4], row[4:]
            if not _finite(of_inputs):
                outer = self._describe(name.rpartition(".")[0])
                if not before:
                    return f"already in what goes into {self._describe(name)}, the first module that runs"
                return f"in the code of {outer}, between {self._describe(before)} and {self._describe(name)}"
            if not _finite(of_output):
                own = list(dict(self.model.named_modules())[name].parameters(recurse=False))
                return f"in {self._describe(name)}" + ("" if all_finite(own) else ", whose weights are not finite")
            before = name
        for number, (name, (_, *ends)) in enumerate(_read(self._backward)):
            if not _finite(ends):
                place = f"the gradient of the output of {self._describe(name)}"
                return f"in the loss, for the model's output is finite; {place} is not" if number == 0 else place
        return None

    def _describe(self, name: str) -> str:
        module = dict(self.model.named_modules())[name]
        return f"{name} ({class_name(module)})" if name else f"the model ({class_name(module)})"


def root_mean_square(values: torch.Tensor) -> torch.Tensor:
    """Return the size of a tensor's values, in one pass over them."""
    size: torch.Tensor = torch.linalg.vector_norm(values.detach().float()) / math.sqrt(max(1, values.numel()))
    return size


def _read(entries: list[Entry]) -> list[tuple[str, list[float]]]:
    """Read all entries from the device at once."""
    numbers = iter(torch.cat([row for _, row in entries]).tolist() if entries else [])
    return [(name, list(islice(numbers, len(row)))) for name, row in entries]


def _numbers(entries: list[Entry]) -> dict[str, list[list[float]]]:
    """Read all entries, by name."""
    rows: dict[str, list[list[float]]] = {}
    for name, row in _read(entries):
        rows.setdefault(name, []).append(row)
    return rows


def _finite(numbers: list[float]) -> bool:
    return all(map(math.isfinite, numbers))


def floats(value: Any) -> Iterator[torch.Tensor]:
    """Go through the floating-point tensors that are not empty in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from floats(entry)


def can_die(module: nn.Module) -> bool:
    """Whether units of a module may be 0 for good: those of activations, and of modules of one's own."""
    place = type(module).__module__
    return place == "torch.nn.modules.activation" or not place.startswith("torch.")
