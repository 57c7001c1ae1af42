"""A run's folder: making it, finding its checkpoints, and keeping two processes from training in it at once."""

import os
import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from logger.console import log
from trainer.checkpoint import SHARDS, DamagedCheckpoint, Header, load_checkpoint, read_header
from utils.distributed import from_main, gathered, is_main
from utils.errors import UserError

CHECKPOINTS, LAST, BEST = "checkpoints", "last.pth", "best.pth"


def create_run_folder(save_dir: Path, name: str) -> Path:
    """Make `save_dir/name/<time>-<id>`, which no other process has.

    Raises:
        UserError: the folder cannot be made, for want of permission for instance.
    """
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = save_dir / name / f"{time}-{secrets.token_hex(2)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        (folder / CHECKPOINTS).mkdir()
    except FileExistsError:
        if folder.is_dir():  # another run drew the same id in the same second
            return create_run_folder(save_dir, name)
        raise UserError(f"trainer.save_dir: {folder.parent} is a file, and runs need a folder there") from None
    except OSError as error:
        raise UserError(f"trainer.save_dir: cannot make {folder}: {error.strerror or error}") from None
    return folder


def checkpoints_of(run: Path) -> list[tuple[Header, Path]]:
    """List a run's checkpoint files whose headers are sound, newest first."""
    found = []
    for path in sorted((run / CHECKPOINTS).glob("*.pth")):
        try:
            found.append((read_header(path), path))
        except (DamagedCheckpoint, OSError):
            continue
    # Of several files of one step, last.pth first: it is the one that is written last.
    return sorted(found, key=lambda entry: (entry[0].step, entry[1].name == LAST), reverse=True)


def newest_checkpoint(run: Path, *, whole: bool = True) -> tuple[Path, dict[str, Any], list[str]]:
    """Load a run's newest checkpoint that is sound, in the eyes of all processes.

    Args:
        run: the run's folder.
        whole: as for `load_checkpoint`.

    Returns:
        The file, its content, and a line for each damaged file that was passed over.

    Raises:
        UserError: there is none.
    """
    sound_headers, damaged = from_main(_look_through(run) if is_main() else ([], []))
    for _, path in sound_headers:
        state: dict[str, Any] = {}
        complaint = ""
        try:
            state = load_checkpoint(path, whole=whole)
        except DamagedCheckpoint as error:
            complaint = str(error)
        complaints = [each for each in gathered(complaint) if each]
        if not complaints:
            return path, state, damaged
        damaged += dict.fromkeys(complaints)
    raise UserError("\n".join([f"{run}: holds no checkpoint that could be resumed", *damaged]))


def _look_through(run: Path) -> tuple[list[tuple[Header, Path]], list[str]]:
    sound = checkpoints_of(run)
    known = {path for _, path in sound}
    others = [path for path in sorted((run / CHECKPOINTS).glob("*.pth")) if path not in known]
    return sound, [f"{path}: damaged: it has no sound header" for path in others]


def run_folder_of(path: Path) -> Path:
    """Return the run's folder for what `-r` names: the folder itself, or a checkpoint file in it.

    Raises:
        UserError: there is no such file or folder.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such run folder or checkpoint file")
    if path.is_dir() and not (path / CHECKPOINTS).is_dir():
        inside = [*path.glob(f"*/{CHECKPOINTS}"), *path.glob(f"*/*/{CHECKPOINTS}")]
        runs = sorted((each.parent for each in inside), key=lambda run: run.name)
        found = f"; {len(runs)} below it, the latest is {runs[-1]}" if runs else ""
        raise UserError(f"{path}: is not the folder of a run: there is no folder {CHECKPOINTS} in it{found}")
    return path if path.is_dir() else path.absolute().parent.parent


def find_checkpoint(path: Path, *, whole: bool = True) -> tuple[Path, dict[str, Any]]:
    """Load what `-r` names: the newest sound checkpoint of a run's folder, or a checkpoint file.

    Args:
        path: what `-r` names.
        whole: as for `load_checkpoint`.

    Returns:
        The file and its content.

    Raises:
        UserError: nothing sound is there.
    """
    run = run_folder_of(path)
    if not path.is_dir():
        return path, load_checkpoint(path, whole=whole)
    file, state, damaged = newest_checkpoint(run, whole=whole)
    for line in damaged:
        log.warning("%s; %s is used instead", line, file.name)
    return file, state


def find_best(path: Path, *, whole: bool = True) -> tuple[Path, dict[str, Any]]:
    """Load what is to be looked at: a run's best checkpoint, its newest if there is no best one, or a checkpoint file.

    Args:
        path: what `-r` names.
        whole: as for `load_checkpoint`.

    Returns:
        The file and its content.

    Raises:
        UserError: nothing sound is there.
    """
    best = path / CHECKPOINTS / BEST
    if best.exists():
        return best, load_checkpoint(best, whole=whole)
    file, state = find_checkpoint(path, whole=whole)
    if path.is_dir():
        log.warning("%s has no %s: its newest checkpoint is taken, %s", path, BEST, file.name)
    return file, state


def newest_unfinished(save_dir: Path, name: str) -> Path | None:
    """Find the newest run of a name that can go on: it has a checkpoint, is not finished and not being trained."""
    folder = save_dir / name
    for run in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []:
        headers = checkpoints_of(run)
        if headers and not headers[0][0].finished and not RunLock(run).is_held():
            return run
    return None


def set_aside(run: Path, step: int) -> list[Path]:
    """Move checkpoints beyond a step out of the way, when a run goes on from before them.

    They belong to a course of training that is about to be replaced; left in place, the next resume would
    take the newest of them. They are kept in `checkpoints/ahead_of_step_<step>`.

    Returns:
        The files at their new places.
    """
    ahead = [(header, path) for header, path in checkpoints_of(run) if header.step > step]
    if not ahead:
        return []
    shelf = run / CHECKPOINTS / f"ahead_of_step_{step}"
    shelf.mkdir(exist_ok=True)
    for header, path in ahead:
        path.replace(shelf / path.name)
        if (path.parent / SHARDS / header.shards).exists() and header.shards:
            (shelf / SHARDS).mkdir(exist_ok=True)
            (path.parent / SHARDS / header.shards).replace(shelf / SHARDS / header.shards)
    return [shelf / path.name for _, path in ahead]


def remove_unused_shards(run: Path) -> None:
    """Remove the folders of shards that no checkpoint of a run names: of old ones, or of a save that was killed."""
    folders = list((run / CHECKPOINTS / SHARDS).glob("*"))
    used = {header.shards for header, _ in checkpoints_of(run)} if folders else set()
    for folder in folders:
        if folder.name not in used:
            shutil.rmtree(folder, ignore_errors=True)


# The locks that this process has. They are kept here because to close such a file, or another of the same name,
# would give the lock back.
_held: dict[Path, BinaryIO] = {}


class RunLock:
    """A lock on a run's folder that the system releases when the process ends, however it ends.

    POSIX record locks are used, not `flock`: data-loading workers would inherit the latter and hold the
    folder for some seconds after the main process was killed.
    """

    def __init__(self, run: Path) -> None:
        """Prepare to lock a run's folder."""
        self.path = (run / ".lock").resolve()

    def acquire(self) -> None:
        """Take the lock, for the life of this process.

        Raises:
            UserError: another process trains in this folder, or nothing can be written there.
        """
        file = _held.get(self.path) or self._try()
        if file is None:
            raise UserError(
                f"{self.path.parent}: this run is being trained by another process: wait for it or stop it first"
            )
        _held[self.path] = file

    def is_held(self) -> bool:
        """Whether another process has the lock."""
        if self.path in _held:
            return False
        file = self._try()
        if file is not None:
            file.close()
        return file is None

    def _try(self) -> BinaryIO | None:
        try:
            file = open(self.path, "a+b")  # noqa: SIM115 - stays open: the lock is on the open file
        except OSError as error:
            raise UserError(f"{self.path.parent}: nothing can be written there: {error.strerror or error}") from None
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        except OSError as error:  # some network file systems know no locks
            log.warning("%s cannot be locked (%s): start no second process that trains in it", self.path.parent, error)
        return file


def _lock(file: BinaryIO) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
