"""Where the tensors live."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from utils.distributed import local_rank, world_size
from utils.errors import UserError


def choose_device(name: str) -> torch.device:
    """Turn the config's `device` into a device that is there, and make it the current one.

    Args:
        name: "auto" (CUDA, then Apple's MPS, then CPU), or a device's name such as "cpu" or "cuda:1".

    Raises:
        UserError: there is no such device on this machine.
    """
    several = world_size() > 1
    if name == "auto":
        mps = torch.backends.mps.is_available() and not several
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if several and name not in ("cuda", "cpu"):
        raise UserError(f'trainer.device: "{name}" is one device for several processes; "cuda" gives each its own')
    if several and name == "cuda":
        name = f"cuda:{local_rank()}"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"PyTorch sees {torch.cuda.device_count()} CUDA devices on this machine"
        raise UserError(f'trainer.device: "{name}" is not there: {found}; "auto" takes the best device there is')
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f'trainer.device: "{name}" is not there; "auto" takes the best device there is')
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], batch: Any) -> Any:
    """Apply a function to the tensors of a batch, through tuples, lists and dicts; the rest stays as it is."""
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [map_tensors(function, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


def move(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """Move the tensors of a batch to a device, and images `(n, channels, height, width)` to a memory format.

    The copy does not wait where the host's memory is pinned, so that it overlaps with computing.
    """
    if device.type == "cpu" and not channels_last:
        return batch  # it was made there

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if channels_last and tensor.ndim == 4:
            return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
        return tensor.to(device, non_blocking=True)

    return map_tensors(moved, batch)


def number_of_samples(batch: Any) -> int:
    """Return the length of a batch's first tensor."""
    if isinstance(batch, torch.Tensor):
        return len(batch)
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return next((number_of_samples(value) for value in values), 0)


def all_finite(batch: Any) -> bool:
    """Whether no tensor of a batch holds a NaN or an infinity."""
    if isinstance(batch, torch.Tensor):
        # A sum takes a tenth of the time; where it overflows, each number is looked at.
        return bool(batch.detach().sum().isfinite()) or bool(batch.isfinite().all())
    if isinstance(batch, dict):
        return all(all_finite(value) for value in batch.values())
    return not isinstance(batch, list | tuple) or all(all_finite(value) for value in batch)


def not_finite(batch: Any, samples: list[int]) -> list[int]:
    """Return which of a batch's samples hold a NaN or an infinity: all, where that cannot be told."""
    if all_finite(batch):
        return []
    lengths: set[int] = set()

    def of_row(tensor: torch.Tensor, row: int) -> torch.Tensor:
        lengths.update(tensor.shape[:1])
        return tensor[row : row + 1] if tensor.ndim else tensor

    rows = range(len(samples))
    bad = [row for row in rows if not all_finite(map_tensors(partial(of_row, row=row), batch))]
    return [samples[row] for row in bad] if bad and lengths == {len(samples)} else samples


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the most memory that this process has used so far, in MB, under the names of a log entry."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peaks["memory_host_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    if device.type == "cuda":
        peaks["memory_device_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return peaks
