"""Checkpoints of models that are too large to be put together: each process writes its share of the tensors.

`torch.distributed.checkpoint` (DCP) writes them to a folder of `checkpoints/shards/`, under another name until all of
them are on the disk. The checkpoint's file, which holds everything else, is written after that and makes them valid.
"""

import copy
import secrets
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from trainer.checkpoint import SHARDS, flush_folder, save_checkpoint
from trainer.shards import INDEX, digest_of, first_failure
from trainer.snapshot import snapshot, to_host
from utils.distributed import from_main, is_main, rank, share, world_size


class ShardWriter:
    """Writes checkpoints in shards; its processes talk in a group of their own, beside those that train."""

    def __init__(self) -> None:
        """Make the group; all processes take part."""
        self._group = distributed.new_group(backend="gloo")
        self._mesh = DeviceMesh.from_group(self._group, "cpu")

    def snapshot(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copy a state to the host; of divided tensors this process's share, nested in the same way, under `shards`.

        Nothing is exchanged after the first copy: whoever comes so far will also begin to write.
        """
        name = f"step_{state['progress']['step']}_{from_main(secrets.token_hex(4))}"  # a step may be saved twice
        shards: dict[str, Any] = {}
        rest = {part: self._split(value, part, shards) for part, value in state.items()}
        return {**snapshot(rest), SHARDS: (name, shards)}

    def _split(self, value: Any, key: Any, shards: dict[str, Any]) -> Any:
        """Return a value with placeholders for what is divided, copies of which go into `shards`."""
        if isinstance(value, DTensor):
            own, shape, stride = to_host(share(value.detach())), value.shape, value.stride()
            shards[key] = DTensor.from_local(own, self._mesh, value.placements, shape=shape, stride=stride)
            return torch.empty(shape, dtype=value.dtype, device="meta")
        if not isinstance(value, dict):
            return value
        rest = copy.copy(value)  # of the same kind
        inner: dict[Any, Any] = {}
        for name, entry in value.items():
            rest[name] = self._split(entry, name, inner)
        if inner:
            shards[key] = inner
        return rest

    def write(self, state: dict[str, Any], paths: list[Path], *, step: int, finished: bool) -> None:
        """Write the shards, and then the files that name them.

        Raises:
            OSError: something could not be written, by whichever process.
        """
        name, shards = state[SHARDS]
        folder = paths[0].parent / SHARDS / name
        unfinished = folder.with_suffix(".tmp")
        try:
            save(shards, storage_writer=_Writer(unfinished), process_group=self._group)
        except CheckpointException as error:
            raise first_failure(error) from None
        digests = self._gather({file.name: digest_of(file) for file in unfinished.glob(f"__{rank()}_*")})
        if is_main():
            digests[INDEX] = digest_of(unfinished / INDEX)
            flush_folder(unfinished)
            unfinished.replace(folder)
            flush_folder(folder.parent)
            save_checkpoint({**state, SHARDS: digests}, paths, step=step, finished=finished, shards=name)

    def _gather(self, digests: dict[str, str]) -> dict[str, str]:
        every: list[Any] = [None] * world_size()
        distributed.gather_object(digests, every if is_main() else None, group=self._group)
        return {file: digest for each in every if each for file, digest in each.items()}


class _Writer(FileSystemWriter):
    """Flushes every file to the disk, and lets an error of the disk be one."""

    def write_data(self, *args: Any) -> Any:
        """Write this process's file."""
        try:
            return super().write_data(*args)
        except RuntimeError as error:  # torch.save may wrap what a failing write raises
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
