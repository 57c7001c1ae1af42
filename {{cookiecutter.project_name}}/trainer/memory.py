"""An answer to running out of memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from utils.errors import RunFailed


@contextmanager
def memory_explained(device: torch.device, doing: Callable[[], str]) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a message that says what to change.

    Args:
        device: where the model lives.
        doing: says what the run was doing.

    Raises:
        RunFailed: there was not enough memory, on the device or on the host.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "allocate memory" not in str(error):
            raise
        raise RunFailed(
            f"out of memory on {device} during {doing()}: {str(error).splitlines()[0] if str(error) else 'no detail'}"
            f"{_in_use(device)}\nmake the batch smaller (data_loader.args.batch_size), the model smaller (model.args), "
            "or use a device with more memory (trainer.device)"
        ) from error


def _in_use(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    allocated, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return (
        f"\nin use: {allocated / 1e6:.0f} MB by this run (at most {peak / 1e6:.0f} MB), "
        f"{(total - free) / 1e6:.0f} of {total / 1e6:.0f} MB by all processes"
    )
