"""Checkpoint files: what was saved comes back, and what is damaged is never taken for sound."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import checkpoint
from trainer.checkpoint import DamagedCheckpoint, load_checkpoint, read_header, save_checkpoint
from trainer.run_folder import create_run_folder, find_checkpoint, newest_unfinished, set_aside
from utils.errors import UserError


class RunsCode:
    """Unpickling one of these would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with three checkpoints."""
    folder = create_run_folder(tmp_path, "test")
    save(folder, 10, "last.pth", "best.pth")
    save(folder, 20, "last.pth", "epoch_0002.pth")
    return folder


def save(run: Path, step: int, *names: str, finished: bool = False) -> None:
    state = {"model": {"weight": torch.full((500,), float(step))}, "progress": {"step": step}}
    save_checkpoint(state, [run / "checkpoints" / name for name in names], step=step, finished=finished)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_was_saved_comes_back(run: Path) -> None:
    file, state = find_checkpoint(run)
    assert file.name == "last.pth"
    assert state["progress"] == {"step": 20}
    assert torch.equal(state["model"]["weight"], torch.full((500,), 20.0))
    assert read_header(file).step == 20


def test_any_program_can_read_it(run: Path) -> None:
    state = torch.load(run / "checkpoints" / "last.pth", weights_only=True)
    assert list(state["model"]) == ["weight"]


def test_damage_is_noticed_and_the_newest_sound_file_is_used(run: Path) -> None:
    damage(run / "checkpoints" / "last.pth")
    with pytest.raises(DamagedCheckpoint, match="not those that were written"):
        load_checkpoint(run / "checkpoints" / "last.pth")
    assert find_checkpoint(run)[0].name == "epoch_0002.pth"
    (run / "checkpoints" / "epoch_0002.pth").write_bytes(b"")
    file, state = find_checkpoint(run)
    assert (file.name, state["progress"]["step"]) == ("best.pth", 10)
    damage(file)
    with pytest.raises(UserError, match="no checkpoint that could be resumed"):
        find_checkpoint(run)


def test_a_save_that_fails_leaves_the_files_as_they_were(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save(run, 30, "last.pth", "best.pth")
    assert find_checkpoint(run)[1]["progress"] == {"step": 20}
    assert not list(run.rglob("*.tmp"))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint({"model": RunsCode()}, [tmp_path / "evil.pth"], step=1, finished=False)
    with pytest.raises(DamagedCheckpoint, match="run code"):
        load_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()


def test_a_newer_format_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        save(run, 30, "last.pth")
    with pytest.raises(UserError, match="load it with the newer version"):
        find_checkpoint(run)


def test_auto_finds_the_newest_run_that_is_not_finished(run: Path) -> None:
    assert newest_unfinished(run.parent.parent, "test") == run
    save(run, 40, "last.pth", finished=True)
    assert newest_unfinished(run.parent.parent, "test") is None
    assert newest_unfinished(run.parent.parent, "another name") is None


def test_checkpoints_ahead_of_a_step_are_moved_aside(run: Path) -> None:
    assert sorted(path.name for path in set_aside(run, 10)) == ["epoch_0002.pth", "last.pth"]
    assert find_checkpoint(run)[0].name == "best.pth"
