"""One checkpoint file: written so that a crash cannot spoil it, read so that damage cannot slip through.

The file is what `torch.save` writes, a ZIP archive of tensors and plain types, and its ZIP comment (the last
bytes of the file) holds a line of JSON: the format's version, the step, whether the run was finished, and the
SHA-256 of everything before. `torch.load(path, weights_only=True)` reads it anywhere, without this project.
"""

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import UserError

FORMAT = 1
_END_OF_ARCHIVE = b"PK\x05\x06"  # its record ends with the comment's length in 2 bytes, and the comment
_BLOCK = 1 << 20


class DamagedCheckpoint(UserError):
    """The file is not a checkpoint, or no longer the one that was written."""


@dataclass
class Header:
    """What a file says of itself without being loaded."""

    format: int
    step: int
    finished: bool
    sha256: str


def save_checkpoint(state: dict[str, Any], paths: Iterable[Path], *, step: int, finished: bool) -> None:
    """Write a state to one or more files of one folder; each is complete on disk before it gets its name.

    Written beside the target, flushed to the disk, renamed, and the folder flushed: at every moment the target
    is either the whole old file or the whole new one, even if the power fails. The first path is written last,
    and each is a file of its own, so that damage to one leaves the others.

    Args:
        state: plain types and tensors only.
        paths: where to; existing files are replaced.
        step: training steps done.
        finished: whether the run has reached its end.

    Raises:
        OSError: the files could not be written, for instance because the disk is full. Files that were
            there are as they were, and no temporary file is left.
    """
    first, *others = paths
    temporary = _temporary(first)
    try:
        with open(temporary, "w+b") as file:
            torch.save({"format": FORMAT, **state}, file)
            _append_header(file, step, finished)
            _flush_to_disk(file)
        for path in others:
            _copy(temporary, path)
        os.replace(temporary, first)
        _flush_folder(first.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch.save wraps what a failing write raises into a RuntimeError of its own.
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _copy(source: Path, target: Path) -> None:
    temporary = _temporary(target)
    try:
        with open(source, "rb") as old, open(temporary, "wb") as new:
            shutil.copyfileobj(old, new, _BLOCK)
            _flush_to_disk(new)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _append_header(file: BinaryIO, step: int, finished: bool) -> None:
    file.seek(0, os.SEEK_END)
    body = file.tell() - 2  # the last two bytes are the length of the comment, so far none
    header = Header(FORMAT, step, finished, sha256="")
    header.sha256 = _digest(file, body, header)
    comment = _encode(header)
    file.seek(body)
    file.write(struct.pack("<H", len(comment)) + comment)


def _encode(header: Header) -> bytes:
    return json.dumps(asdict(header)).encode("ascii")


def _digest(file: BinaryIO, size: int, header: Header) -> str:
    """Hash the first `size` bytes of a file, and what its header says."""
    digest = hashlib.sha256(_encode(replace(header, sha256="")))
    file.seek(0)
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power failure; Windows neither needs nor allows it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_header(path: Path) -> tuple[Header, int]:
    """Read what a file says of itself, and how many of its bytes the hash covers.

    Raises:
        DamagedCheckpoint: the file does not end with a header of this project, or is cut off.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        tail = file.read()
    end = tail.rfind(_END_OF_ARCHIVE)
    comment = tail[end + 22 :] if end >= 0 else b""
    try:
        header = Header(**json.loads(comment))
    except (ValueError, TypeError):
        raise DamagedCheckpoint(f"{path}: not a checkpoint of this project, or a damaged one") from None
    return header, size - len(comment) - 2


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a whole checkpoint onto the CPU, or nothing of it.

    Only tensors and plain types are ever built from the file: it cannot run code.

    Raises:
        DamagedCheckpoint: the bytes are not those that were written.
        UserError: the file is missing, unreadable, or of a newer format than this code knows.
    """
    try:
        header, body = read_header(path)
        with open(path, "rb") as file:
            if _digest(file, body, header) != header.sha256:
                raise DamagedCheckpoint(f"{path}: damaged: its bytes are not those that were written")
        if header.format > FORMAT:
            raise UserError(
                f"{path}: written in checkpoint format {header.format}, and this project reads formats up to "
                f"{FORMAT}: load it with the newer version that wrote it"
            )
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise DamagedCheckpoint(f"{path}: refused, since loading it would run code: {reason}") from None
    return state
