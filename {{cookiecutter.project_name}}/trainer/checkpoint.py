"""One checkpoint file: written so that a crash cannot spoil it, read so that damage cannot slip through.

The file is what `torch.save` writes, a ZIP archive of tensors and plain types, and its ZIP comment (the last
bytes of the file) holds a line of JSON: the format's version, the step, whether the run was finished, and the
SHA-256 of everything before. `torch.load(path, weights_only=True)` reads it anywhere, without this project.

Of a model that is too large for one file, the tensors lie in a folder of shards beside it, which the file names. They
are then placeholders in it (on the device `meta`), and under `shards` it has the SHA-256 of each file of that folder.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import EXTRA, UserError

FORMAT = 1
SHARDS = "shards"  # the folder, beside the file, of folders of shards
_END_OF_ARCHIVE = b"PK\x05\x06"  # its record ends with the comment's length in 2 bytes, and the comment
_BLOCK = 1 << 20


class DamagedCheckpoint(UserError):
    """The file is not a checkpoint, or no longer the one that was written."""


@dataclass
class Header:
    """What a file says of itself without being loaded; `shards` is the folder of its shards, if it has any."""

    format: int
    step: int
    finished: bool
    sha256: str
    shards: str = ""


def save_checkpoint(
    state: dict[str, Any], paths: Iterable[Path], *, step: int, finished: bool, shards: str = ""
) -> None:
    """Write a state to one or more files of one folder; each is complete on disk before it gets its name.

    Written beside the target, flushed to the disk, renamed, and the folder flushed: at every moment the target
    is either the whole old file or the whole new one, even if the power fails. The first path is written last,
    and each is a file of its own, so that damage to one leaves the others.

    Args:
        state: plain types and tensors only.
        paths: where to; existing files are replaced.
        step: training steps done.
        finished: whether the run has reached its end.
        shards: the name of the folder of its shards, which are complete.

    Raises:
        OSError: the files could not be written, for instance because the disk is full. Files that were
            there are as they were, and no temporary file is left.
    """
    first, *others = paths
    temporary = _temporary(first)
    try:
        with open(temporary, "w+b") as file:
            torch.save({"format": FORMAT, **state}, file)
            _append_header(file, Header(FORMAT, step, finished, sha256="", shards=shards))
            _flush_to_disk(file)
        for path in others:
            _copy(temporary, path)
        temporary.replace(first)
        flush_folder(first.parent)
    except BaseException as error:
        _remove(temporary)
        # torch.save may wrap what a failing write raises into a RuntimeError of its own.
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _remove(temporary: Path) -> None:
    with suppress(OSError):  # what went wrong before is what has to be said; the next start tidies up
        temporary.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    temporary = _temporary(target)
    try:
        with open(source, "rb") as old, open(temporary, "wb") as new:
            shutil.copyfileobj(old, new, _BLOCK)
            _flush_to_disk(new)
        temporary.replace(target)
    except BaseException:
        _remove(temporary)
        raise


def _append_header(file: BinaryIO, header: Header) -> None:
    file.seek(0, os.SEEK_END)
    body = file.tell() - 2  # the last two bytes are the length of the comment, so far none
    fields = asdict(header)
    comment = _encode({**fields, "sha256": _digest(file, body, fields)})
    file.seek(body)
    file.write(struct.pack("<H", len(comment)) + comment)


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode("ascii")


def _digest(file: BinaryIO, size: int, fields: dict[str, Any]) -> str:
    """Hash the first `size` bytes of a file, and what its header says."""
    digest = hashlib.sha256(_encode({**fields, "sha256": ""}))
    file.seek(0)
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make a rename survive a power failure; Windows neither needs nor allows it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_header(path: Path) -> Header:
    """Read what a file says of itself; whether the file is whole is not looked at.

    Raises:
        DamagedCheckpoint: the file does not end with a header of this project, or is cut off.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        fields, _ = _read_fields(file, path)
    return Header(**{name: fields[name] for name in Header.__annotations__ if name in fields})


def _read_fields(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    """Read the header, which a newer format may have given more fields, and how many bytes its hash covers."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    tail = file.read()
    end = tail.rfind(_END_OF_ARCHIVE)
    length, comment = tail[end + 20 : end + 22], tail[end + 22 :]
    try:
        fields = dict(json.loads(comment)) if end >= 0 else {}
        # The hash covers neither the length nor the comment's spelling, so there must be only one.
        sound = _encode(fields) == comment and struct.pack("<H", len(comment)) == length
        kinds = Header.__annotations__.items()
        sound = sound and all(type(fields.get(name, getattr(Header, name, None))) is kind for name, kind in kinds)
        sound = sound and re.fullmatch(r"[\w-]*", fields.get(SHARDS, "")) is not None
    except (ValueError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedCheckpoint(f"{path}: not a checkpoint of this project, or a damaged one")
    return fields, size - len(comment) - 2


def load_checkpoint(path: Path, *, whole: bool = True) -> dict[str, Any]:
    """Read a whole checkpoint onto the CPU, or nothing of it.

    Only tensors and plain types are ever built from the file: it cannot run code.

    Args:
        path: the file.
        whole: whether to read the tensors that lie in shards too. Else they stay placeholders, and `state["shards"]`
            reads them, divided among the processes. Each process then looks for damage in its share of the shards.

    Raises:
        DamagedCheckpoint: the bytes are not those that were written.
        UserError: the file is missing, unreadable, or of a newer format than this code knows.
    """
    try:
        with open(path, "rb") as file:
            fields, body = _read_fields(file, path)
            if _digest(file, body, fields) != fields["sha256"]:
                raise DamagedCheckpoint(f"{path}: damaged: its bytes are not those that were written")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if fields["format"] > FORMAT:
        raise UserError(
            f"{path}: written in checkpoint format {fields['format']}, and this project reads formats up to "
            f"{FORMAT}: load it with the newer version that wrote it"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the hash is right, so somebody made it so
        raise DamagedCheckpoint(f"{path}: {explain_refusal(error)}") from None
    if SHARDS in state:
        state[SHARDS] = _open_shards(path, path.parent / SHARDS / fields["shards"], state[SHARDS])
        return state[SHARDS].fill(state, dict.fromkeys(state)) if whole else state
    return state


def _open_shards(path: Path, folder: Path, digests: dict[str, str]) -> Any:
    if importlib.util.find_spec("trainer.shards") is None:
        raise UserError(f"{path}: its tensors lie in shards, and this project has no trainer/shards.py; {EXTRA}")
    return importlib.import_module("trainer.shards").Shards(folder, digests)


def explain_refusal(error: Exception) -> str:
    """Say in one line why `torch.load` would not have a file; its own words recommend to run the code in it."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = found[1] if found else "something other than tensors and plain values"
        return f"refused: to load it would mean to run code that it names ({what})"
    return f"cannot be read as a checkpoint: {(str(error).splitlines() or [type(error).__name__])[0]}"
