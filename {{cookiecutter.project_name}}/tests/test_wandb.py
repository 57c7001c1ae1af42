"""Weights & Biases, offline: what its file holds, how a resumed run goes on, and that it holds no key."""

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from logger.wandb import WandB
from trainer.trainer import Trainer
from utils.errors import UserError

KEY = "0123456789abcdef" * 2 + "01234567"


def records(file: Path) -> Iterator[Any]:
    """Read a file of W&B: a head of 7 bytes, then records in blocks of 32 KiB, as LevelDB writes its log."""
    from wandb.proto import wandb_internal_pb2 as protocol

    data, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        if position + 7 + length > len(data):
            return  # W&B's process has not written the end yet
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole of a record, or the end of one
            yield vars(protocol)["Record"].FromString(parts)
            parts = b""


def test_a_run_is_recorded_offline_and_goes_on_under_its_id(
    tiny: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = {"wandb": {"mode": "offline", "histograms_every": 5, "project": "trial"}, "plots": False}
    trainer = tiny(loggers=settings, trainer={"epochs": 2})
    trainer.train()
    state = trainer.observers.state_dict()

    longer = tiny(loggers=settings, trainer={"epochs": 3})
    longer.observers.members["wandb"].load_state_dict(state["wandb"])
    longer.observers.members["wandb"].on_start(longer)
    longer.observers.on_step(12, {"train_loss": 0.5, "samples_per_second": 1.0, "grad_norm": 1.0})
    longer.observers.on_figure("validation/picture", Figure(figsize=(1, 1)), 15)
    longer.observers.on_text("validation/written", "<b> & 한", 15)
    longer.observers.close()

    (first,) = trainer.saver.run_dir.glob("wandb/offline-run-*/*.wandb")
    (second,) = longer.saver.run_dir.glob("wandb/offline-run-*/*.wandb")
    runs = [record.run for file in (first, second) for record in records(file) if record.HasField("run")]
    assert {run.run_id for run in runs} == {state["wandb"]["id"]}
    assert {run.project for run in runs} == {"trial"}
    assert "optimizer.lr" in {item.key for item in runs[0].config.update}

    history: dict[int, set[str]] = {}
    for record in records(first):
        if record.HasField("history"):
            names = {item.key or "/".join(item.nested_key) for item in record.history.item}
            history[record.history.step.num] = names
    assert {4, 5, 8, 10} == set(history)
    assert {"steps/train_loss", "steps/grad_norm", "steps/data_wait"} <= history[8]
    assert any(name.startswith("weights/linear.weight") for name in history[8])
    assert {"loss/train", "loss/val", "run/best_val_loss", "epoch"} <= history[10]

    (picture,) = longer.saver.run_dir.glob("wandb/offline-run-*/files/media/images/validation/picture_*.png")
    assert imread(picture).shape == (120, 120, 4)
    (text,) = longer.saver.run_dir.glob("wandb/offline-run-*/files/media/html/validation/written_*.html")
    assert "<pre>&lt;b&gt; &amp; 한</pre>" in text.read_text(encoding="utf-8")

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_what_the_curve_already_has_is_not_sent_again(tmp_path: Path) -> None:
    sent: list[int] = []

    class Run:
        def log(self, entry: dict[str, Any], step: int) -> None:
            sent.append(step)

    pytest.importorskip("wandb")
    observer = WandB(tmp_path)
    observer._run, observer._ahead = Run(), 11
    for step in (8, 10, 12):
        observer._report({"loss/val": 0.5}, step)
    assert sent == [12]


def test_without_the_package_the_answer_is_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[wandb\]"'):
        WandB(tmp_path)
