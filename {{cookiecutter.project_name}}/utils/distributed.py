"""Processes that train together: which one this is, and what they tell one another.

`torchrun` starts them and says in the environment who is who. Without it there is one process, every function here
answers at once, and `torch.distributed` is not touched.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

# Long, because the others wait while the main process does something alone, such as writing a checkpoint.
TIMEOUT = timedelta(minutes=30)

# What the system, gloo, NCCL and the store of torchrun say of a connection that has come to its end.
_LOST = (
    *("Broken pipe", "Connection reset by peer", "Connection closed by peer", "Connection was likely closed"),
    *("Connection timed out", "No route to host", "Network is unreachable"),
    "remote process exited",
)

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process, counted from 0 over all machines."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the number of this process on its machine, and so of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return how many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and speaks for all."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes, if there are several: through gloo on the CPU, and NCCL between GPUs."""
    if world_size() == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    distributed.init_process_group(backend, None, TIMEOUT, world_size(), rank(), new_store())
    try:
        yield
    except BaseException:
        if not cuda:  # NCCL would wait for what the others have begun, and an end of this process ends that
            distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def new_store() -> Any:
    """Return what the processes find each other by: a store that none but them has ever written to.

    That of torchrun outlives them. After a restart it still holds the addresses of those before, and whoever reads one
    of these waits for minutes for an answer. So each process draws a number, and asks the main one for the name of this
    start under that number, under which nobody before can have had an answer.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store = next(iter(rendezvous("env://", timeout=TIMEOUT)))[0]
    own = uuid.uuid4().hex
    store.set(f"number of {rank()}", own)
    if not is_main():
        name = store.get(f"start of {own}").decode()
        store.set(f"{name} has {rank()}", "")
        return PrefixStore(name, store)
    missing = set(range(1, world_size()))
    while missing:  # a number may be that of a process of before; it is overwritten in time
        for other in missing:
            store.set(f"start of {store.get(f'number of {other}').decode()}", own)
        time.sleep(0.01)
        missing = {other for other in missing if not store.check([f"{own} has {other}"])}
    return PrefixStore(own, store)


def from_main(value: T) -> T:
    """Return the main process's value on all of them."""
    if world_size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def gathered(value: T) -> list[T]:
    """Return the values of all processes, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Add a tensor up over all processes, in place."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def peer_was_lost(error: BaseException) -> bool:
    """Whether an error says that a process, with which this one was exchanging something, can no longer be reached."""
    return world_size() > 1 and any(text in str(error) for text in _LOST)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that is divided among the processes in one piece, on all of them; others as they are."""
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def share(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's share of a tensor that is divided among the processes; others as they are."""
    own: torch.Tensor = getattr(tensor, "to_local", lambda: tensor)()
    return own


def like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Divide a whole tensor among the processes as `other` is, if it is; one that is divided stays as it is."""
    if not hasattr(other, "full_tensor") or hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


class Agreement:
    """The largest number that any process names, known to all of them one call later.

    The lag is what makes it free: the question of one step travels while the next one is computed.
    """

    def __init__(self) -> None:
        """Begin without a question."""
        self._alone = world_size() == 1
        self._pending: tuple[torch.Tensor, Any] | None = None

    def __call__(self, number: int) -> int:
        """Name a number, and return the largest of those that were named in the call before (0 in the first one)."""
        if self._alone:
            return number
        previous, tensor = self._pending, torch.tensor([number])
        self._pending = tensor, distributed.all_reduce(tensor, distributed.ReduceOp.MAX, async_op=True)
        if previous is None:
            return 0
        previous[1].wait()
        return int(previous[0])
