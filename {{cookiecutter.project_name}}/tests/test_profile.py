"""`train.py --profile`."""

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from logger.console import set_up_logging
from trainer import profile
from trainer.trainer import Trainer


def test_it_leaves_a_trace_and_says_where_the_time_goes(
    config_file: Path, tmp_path: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved"
    assert script("train.py", "-c", config_file, "trainer.device=cpu", f"trainer.save_dir={saved}", "--profile") == 0
    said = capsys.readouterr().out
    (file,) = saved.iterdir()
    assert file.name.endswith("-profile.json.gz")
    assert str(file) in said
    with gzip.open(file, "rt", encoding="utf-8") as text:
        names = {event.get("name", "") for event in json.load(text)["traceEvents"]}
    assert any(name.startswith("Optimizer.step") for name in names)
    for part in (profile.DATA, profile.FORWARD, profile.BACKWARD, profile.OPTIMIZER):
        assert part in said
    shares = [int(line.split()[-2]) for line in said.split("heaviest")[0].splitlines() if line.endswith(" %")]
    assert sum(shares) == pytest.approx(100, abs=4)


@pytest.mark.parametrize("slow", [False, True])
def test_slow_data_are_told_from_a_slow_step(
    tiny: Callable[..., Trainer], slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work of the one stands still for a moment; it is 100 times what the other takes."""
    trainer = tiny()
    monkeypatch.setattr(profile, "STEPS", 2)
    monkeypatch.setattr(profile, "ROUNDS", 2)
    monkeypatch.setattr(profile, "trace", lambda *_: None)
    owner: Any = trainer.loaders.train.dataset if slow else trainer
    name = "__getitems__" if slow else "train_step"
    work = getattr(type(owner), name)

    def slowly(*arguments: Any) -> Any:
        threading.Event().wait(0.1)
        return work(*arguments)

    monkeypatch.setattr(type(owner), name, slowly)
    set_up_logging()
    profile.run(trainer, True)
    said = capsys.readouterr().out
    assert ("data loading is the bottleneck" in said) == slow
    assert not trainer.model._forward_hooks
    assert not trainer.model._forward_pre_hooks
    assert not trainer.optimizer._optimizer_step_pre_hooks


def test_batches_that_differ_are_compared_with_themselves(
    tiny: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The very first batch is quick, as one of short sequences; the others are not, and no data are to blame."""
    trainer = tiny()
    monkeypatch.setattr(profile, "STEPS", 2)
    monkeypatch.setattr(profile, "ROUNDS", 2)
    monkeypatch.setattr(profile, "trace", lambda *_: None)
    loader, work = trainer.loaders.train, trainer.train_step
    loader.set_position(0)
    first = next(iter(loader))[0]

    def slowly(batch: Any) -> Any:
        if not torch.equal(batch[0], first):
            threading.Event().wait(0.03)
        return work(batch)

    trainer.train_step = slowly  # type: ignore[method-assign]
    set_up_logging()
    profile.run(trainer, True)
    assert "data loading is not the bottleneck" in capsys.readouterr().out
