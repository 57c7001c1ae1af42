"""Where the tensors live."""

from typing import Any

import torch

from utils.errors import UserError


def choose_device(name: str) -> torch.device:
    """Turn the config's `device` into a device that is there.

    Args:
        name: "auto" (CUDA, then Apple's MPS, then CPU), or a device's name such as "cpu" or "cuda:1".

    Raises:
        UserError: there is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"PyTorch sees {torch.cuda.device_count()} CUDA devices on this machine"
        raise UserError(f'trainer.device: "{name}" is not there: {found}; "auto" takes the best device there is')
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f'trainer.device: "{name}" is not there; "auto" takes the best device there is')
    return device


def move(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch to a device, through tuples, lists and dicts; the rest stays as it is.

    The copy does not wait where the host's memory is pinned, so that it overlaps with computing.
    """
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [move(value, device) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


def all_finite(batch: Any) -> bool:
    """Whether no tensor of a batch holds a NaN or an infinity."""
    if isinstance(batch, torch.Tensor):
        # A sum takes a tenth of the time; where it overflows, each number is looked at.
        return bool(batch.detach().sum().isfinite()) or bool(batch.isfinite().all())
    if isinstance(batch, dict):
        return all(all_finite(value) for value in batch.values())
    return not isinstance(batch, list | tuple) or all(all_finite(value) for value in batch)
