"""Checkpoints are written while training goes on, hold the state of their step, and their failure is not lost."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer import parallel
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.snapshot import snapshot
from trainer.trainer import Trainer
from utils.errors import RunFailed


def test_training_goes_on_while_a_checkpoint_is_written_which_holds_the_state_of_its_step(
    tiny: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny(trainer={"epochs": 1, "save_every_steps": 2})
    steps_seen, gone_on = [], threading.Event()
    weights = {}
    real_step = trainer.train_step

    def step(batch: Any) -> Any:
        result = real_step(batch)
        weights[trainer.progress.step + 1] = trainer.model.state_dict()["linear.weight"].clone()
        if trainer.progress.step + 1 == 3:
            gone_on.set()  # the third step is done, and the save after the second one still waits
        return result

    def slow(state: dict[str, Any], paths: Any, *, step: int, finished: bool) -> None:
        assert gone_on.wait(60)
        save_checkpoint(state, paths, step=step, finished=finished)
        steps_seen.append((step, torch.equal(state["model"]["linear.weight"], weights[step])))

    monkeypatch.setattr(trainer, "train_step", step)
    monkeypatch.setattr(parallel, "save_checkpoint", slow)
    trainer.train()
    assert steps_seen == [(2, True), (4, True), (5, True)]
    assert load_checkpoint(trainer.saver.folder / "last.pth")["progress"]["step"] == 5


def test_a_write_that_fails_in_the_background_ends_the_run_at_its_next_step(
    tiny: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny(trainer={"epochs": 3, "save_every_steps": 2, "save_every_epochs": None, "monitor": None})
    real_step = trainer.train_step

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def step(batch: Any) -> Any:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        return real_step(batch)

    monkeypatch.setattr(trainer, "train_step", step)
    monkeypatch.setattr(parallel, "save_checkpoint", full)
    with pytest.raises(RunFailed, match="could not write a checkpoint at step 2: the disk is full\nno checkpoint of"):
        trainer.train()
    assert trainer.progress.step == 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells a descriptor's file")
def test_a_checkpoint_is_written_when_what_it_counts_on_is_on_the_disk(
    tiny: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: dict[str, int] = {}
    fsync, saves = os.fsync, []

    def synced(number: int) -> None:
        file = Path(f"/proc/self/fd/{number}").resolve()
        on_disk[file.name] = file.stat().st_size
        fsync(number)

    def saved(state: dict[str, Any], *arguments: Any, **options: Any) -> None:
        sizes = {name: size for logger in state["loggers"].values() for name, size in logger.get("sizes", {}).items()}
        saves.append(sizes)
        assert all(size <= on_disk.get(name, -1) for name, size in sizes.items())  # training goes on meanwhile
        save_checkpoint(state, *arguments, **options)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(parallel, "save_checkpoint", saved)
    tiny(trainer={"epochs": 2, "save_every_epochs": 1}, loggers={"tensorboard": True}).train()
    assert [len(sizes) for sizes in saves] == [2, 2]


def test_a_snapshot_is_a_copy_in_which_tied_weights_stay_tied() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    state = {"model": model.state_dict(), "rates": [0.1, (1, 2)]}
    copied = snapshot(state)
    before = first.weight.detach().clone()
    with torch.no_grad():
        first.weight.zero_()
    assert torch.equal(copied["model"]["0.weight"], before)
    assert copied["model"]["0.weight"].data_ptr() == copied["model"]["1.weight"].data_ptr()
    assert copied["rates"] == [0.1, (1, 2)]
