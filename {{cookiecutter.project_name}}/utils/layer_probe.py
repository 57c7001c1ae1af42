"""Hooks that measure what passes through a model's layers, forward and backward, and find what went wrong first."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from utils.device import all_finite, move
from utils.distributed import share
from utils.errors import Diverged
from utils.seeding import random_state_kept

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class LayerProbe:
    """Measures one step, or several. Nothing is read from the device before `read` or `first_not_finite`.

    Gradients of outputs are caught by hooks on the tensors: `register_full_backward_hook` would forbid a layer that
    works in place, such as `ReLU(inplace=True)`, to follow.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare to measure a model; no hook is set yet."""
        self.model = model
        self._handles: list[RemovableHandle] = []
        self._forward: list[tuple[str, torch.Tensor]] = []
        self._backward: list[tuple[str, torch.Tensor]] = []
        self._weights: dict[str, torch.Tensor] = {}
        self._alive: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "LayerProbe":
        """Set the hooks."""
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_hook(partial(self._after_forward, name)))
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    key = f"{name}.{own}".lstrip(".")
                    hook = partial(self._after_gradient, key)
                    self._handles.append(parameter.register_post_accumulate_grad_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def _after_forward(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        finite = torch.stack([tensor.isfinite().all() for tensor in floats(inputs)] or [torch.tensor(True)]).all()
        for tensor in floats(output):
            values = tensor.detach().float()
            numbers = [values.mean(), values.std(correction=0), values.abs().amax(), finite, values.isfinite().all()]
            self._forward.append((name, torch.stack([number.to(values) for number in numbers])))
            if can_die(module) and tensor.ndim > 1:
                unit = 1 if tensor.ndim > 3 else tensor.ndim - 1  # channels of images, else the last dimension
                alive = (values != 0).transpose(unit, -1).flatten(0, -2).any(dim=0)
                known = self._alive.get(name)
                self._alive[name] = alive if known is None or known.shape != alive.shape else alive | known
            if tensor.requires_grad:
                tensor.register_hook(partial(self._after_backward, name))

    def _after_backward(self, name: str, gradient: torch.Tensor) -> None:
        values = gradient.detach().float()
        numbers = [values.square().mean().sqrt(), values.isfinite().all()]
        self._backward.append((name, torch.stack([number.to(values) for number in numbers])))

    def _after_gradient(self, name: str, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self._weights[name] = share(parameter.grad.detach()).float().square().mean().sqrt()

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what was measured of each layer, in the order in which the layers ran, and forget it.

        A layer is a module that has no modules in it, or parameters of its own. Its entry holds `mean`, `std` and
        `max` of its output (the latter of absolute values), `gradient` of its output and `weight_gradient`
        (root mean squares), and of an activation `units` and how many of them are `dead`: 0 for every sample.
        """
        layers: dict[str, dict[str, Any]] = {}
        modules = dict(self.model.named_modules())
        for name, (mean, std, largest, *_) in self._numbers(self._forward):
            if not any(modules[name].children()) or any(True for _ in modules[name].parameters(recurse=False)):
                layers[name] = {"mean": mean, "std": std, "max": largest}
        for name, (gradient, _) in self._numbers(self._backward):
            if name in layers:
                layers[name]["gradient"] = gradient
        for key, (gradient,) in self._numbers([(key, value[None]) for key, value in self._weights.items()]):
            name = key.rpartition(".")[0]
            if name in layers:
                layers[name]["weight_gradient"] = max(gradient, layers[name].get("weight_gradient", 0.0))
        for name, alive in self._alive.items():
            if name in layers:
                layers[name] |= {"units": alive.numel(), "dead": alive.numel() - int(alive.sum())}
        self._forward, self._backward, self._weights, self._alive = [], [], {}, {}
        return layers

    def first_not_finite(self) -> str | None:
        """Say where the first value came from that is NaN or infinite; None if there is none."""
        before = ""
        forward = self._numbers(self._forward)
        for name, (_, _, _, finite_input, finite_output) in forward:
            if not finite_input:
                outer = self._describe(name.rpartition(".")[0])
                if not before:
                    return f"already in what goes into {self._describe(name)}, the first module that runs"
                return f"in the code of {outer}, between {self._describe(before)} and {self._describe(name)}"
            if not finite_output:
                own = list(dict(self.model.named_modules())[name].parameters(recurse=False))
                return f"in {self._describe(name)}" + ("" if all_finite(own) else ", whose weights are not finite")
            before = name
        for number, (name, (_, finite)) in enumerate(self._numbers(self._backward)):
            if not finite:
                place = f"the gradient of the output of {self._describe(name)}"
                return f"in the loss, for the model's output is finite; {place} is not" if number == 0 else place
        return None

    def _describe(self, name: str) -> str:
        module = dict(self.model.named_modules())[name]
        return f"{name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"

    @staticmethod
    def _numbers(entries: list[tuple[str, torch.Tensor]]) -> list[tuple[str, list[float]]]:
        """Read all entries from the device at once."""
        if not entries:
            return []
        rows = torch.stack([numbers for _, numbers in entries]).tolist()
        return [(name, row) for (name, _), row in zip(entries, rows, strict=True)]


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


def replay(trainer: "Trainer", batch: Any, random: dict[str, Any]) -> str:
    """Take a training step again, with the random numbers that it had, and say where it went wrong.

    Args:
        trainer: with the weights from before the step.
        batch: what the step was about.
        random: the state of torch's generators before the step, as `torch_random` returned it.
    """
    with random_state_kept(), LayerProbe(trainer.model) as probe:
        if random:
            torch.set_rng_state(random["cpu"])
            if "cuda" in random and trainer.device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"], trainer.device)
        with suppress(Diverged):
            trainer.train_step(move(batch, trainer.device))
    place = probe.first_not_finite()
    if place:
        return f"the first value that is NaN or infinite arises {place}"
    return "the outputs of all modules and all gradients are finite: what is not is the loss"


def torch_random(device: torch.device) -> dict[str, Any]:
    """Return the state of the generators that a model draws from; this does not wait for the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state
