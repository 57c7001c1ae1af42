"""Reading the shards of a checkpoint: any number of processes can, each what it needs.

The folder is one of `torch.distributed.checkpoint` (DCP), which PyTorch's own tools read too.
"""

import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from trainer.checkpoint import SHARDS, DamagedCheckpoint
from utils.distributed import rank, world_size

INDEX = ".metadata"  # says what lies where; a pickle

# What an index is made of. Each of these builds a value, and does nothing else.
_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((_METADATA, name) for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "TensorStorageMetadata")),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *(("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}


class Shards:
    """The shards of one checkpoint, of which this process has looked for damage in its share."""

    def __init__(self, folder: Path, digests: dict[str, str]) -> None:
        """Look for damage.

        Args:
            folder: where they are.
            digests: the SHA-256 of each file, by name.

        Raises:
            DamagedCheckpoint: a file is missing or not the one that was written, or would run code.
        """
        self.folder = folder
        for number, (name, digest) in enumerate(sorted(digests.items())):
            if name == INDEX or number % world_size() == rank():
                if not (folder / name).exists():
                    raise DamagedCheckpoint(f"{folder / name}: is not there; a checkpoint needs it")
                if digest_of(folder / name) != digest:
                    raise DamagedCheckpoint(f"{folder / name}: damaged: its bytes are not those that were written")
        _check_index(folder / INDEX)

    def fill(self, state: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
        """Return a state with tensors in place of placeholders, without ever putting a divided one together.

        Args:
            state: of the checkpoint.
            parts: which parts of it to fill, by name, and what they are for: what is divided among the processes there
                is divided so in the result. For None everything is whole, and on the CPU.
        """
        targets: dict[str, torch.Tensor] = {}
        filled = {
            name: _with_targets(value, _layout(parts[name], value), name, targets)
            if name in parts and _has_placeholders(value)
            else value
            for name, value in state.items()
            if name != SHARDS
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is")  # "… unavailable", in a single process
            try:
                load(targets, storage_reader=FileSystemReader(self.folder))
            except CheckpointException as error:
                raise first_failure(error) from None
        return filled


def _has_placeholders(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_placeholders, value.values()))
    return isinstance(value, torch.Tensor) and value.is_meta


def _layout(part: Any, stored: Any) -> Any:
    """Return tensors that lie as those of a part have to, nested as they are stored."""
    if isinstance(part, Optimizer):  # a new one has no state yet; it will be divided like the parameters
        parameters = [parameter.detach() for group in part.param_groups for parameter in group["params"]]
        entries = stored["state"].items()
        return {"state": {number: dict.fromkeys(entry, parameters[number]) for number, entry in entries}}
    return part.state_dict() if part is not None else None


def _with_targets(value: Any, layout: Any, path: str, targets: dict[str, torch.Tensor]) -> Any:
    """Replace placeholders by empty tensors, which also go into `targets` under the names that DCP gave them."""
    if isinstance(value, dict):
        inner = layout if isinstance(layout, dict) else {}
        return {key: _with_targets(each, inner.get(key), f"{path}.{key}", targets) for key, each in value.items()}
    if not _has_placeholders(value):
        return value
    if isinstance(layout, torch.Tensor) and layout.shape == value.shape:
        targets[path] = torch.empty_like(layout, dtype=value.dtype)
    else:
        targets[path] = torch.empty_like(value, device="cpu")
    return targets[path]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"to load it would mean to run {module}.{name}")
        return super().find_class(module, name)


def _check_index(file: Path) -> None:
    """See that an index builds nothing but an index: DCP will load it as the pickle that it is."""
    try:
        with open(file, "rb") as stream:
            _Unpickler(stream).load()
    except Exception as error:
        raise DamagedCheckpoint(f"{file}: refused: {error}") from None


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def first_failure(error: CheckpointException) -> BaseException:
    """Return the error of one process, of which DCP has told all."""
    return next(iter(error.failures.values()))[0]
