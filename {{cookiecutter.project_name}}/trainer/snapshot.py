"""A copy of a state in the host's memory, which training does not touch while it is being written."""

import copy
from typing import Any

import torch

from utils.distributed import is_main, whole

_PLAIN = (type(None), bool, int, float, str, bytes)


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Copy nested dicts, lists and tuples of tensors and plain values to the host, so that a file opens anywhere.

    Tensors that are divided among the processes are put together, in which all processes take part; the main process
    alone, which writes them, gets a copy.

    Raises:
        TypeError: something is of another kind (a NumPy number, say), so that the file would be refused when it is
            loaded.
    """
    copies: dict[Any, torch.Tensor] = {}
    result = {name: _copy(value, name, copies) for name, value in state.items()}
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # once, for all copies
    return result


def _copy(value: Any, place: str, copies: dict[Any, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return _copy_of_tensor(value.detach(), copies)
    if isinstance(value, dict):
        result = copy.copy(value)  # of the same kind: a scheduler may keep a Counter
        for key, entry in value.items():
            result[key] = _copy(entry, f"{place}.{key}", copies)
        return result
    if isinstance(value, list | tuple):
        return type(value)(_copy(entry, f"{place}.{number}", copies) for number, entry in enumerate(value))
    if type(value) not in _PLAIN:
        raise TypeError(f"{place}: a checkpoint holds tensors and plain values, and this is a {type(value).__name__}")
    return value


def _copy_of_tensor(tensor: torch.Tensor, copies: dict[Any, torch.Tensor]) -> torch.Tensor:
    if tensor.is_meta:  # a placeholder
        return tensor
    gathered = whole(tensor)
    if not is_main():
        return torch.empty(0)
    if gathered is not tensor:
        return to_host(gathered)
    # Tied weights are one tensor under two names, and remain one in the file.
    key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if key not in copies:
        copies[key] = to_host(tensor)
    return copies[key]


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to the host's memory; from a GPU the copy is under way, and `snapshot` waits for it."""
    if tensor.device.type == "cuda":  # pinned memory takes it several times as fast, and without waiting
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
    return tensor.to("cpu", copy=True)
