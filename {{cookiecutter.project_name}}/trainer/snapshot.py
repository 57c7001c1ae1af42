"""A copy of a state in the host's memory, which training does not touch while it is being written."""

import copy
from typing import Any

import torch

_PLAIN = (type(None), bool, int, float, str, bytes)


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Copy nested dicts, lists and tuples of tensors and plain values to the host, so that a file opens anywhere.

    Raises:
        TypeError: something is of another kind (a NumPy number, say), so that the file would be refused when it is
            loaded.
    """
    copies: dict[Any, torch.Tensor] = {}
    result = {name: _copy(value, name, copies) for name, value in state.items()}
    for device in {key[0] for key in copies if key[0].type == "cuda"}:
        torch.cuda.synchronize(device)  # once, for all copies
    return result


def _copy(value: Any, place: str, copies: dict[Any, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # Tied weights are one tensor under two names, and remain one in the file.
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in copies:
            copies[key] = _to_host(value.detach())
        return copies[key]
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


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type == "cuda":  # pinned memory takes it several times as fast, and without waiting
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
    return tensor.to("cpu", copy=True)
