"""Stopping and going on: a run that was stopped ends with exactly the numbers of one that was not."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.closing import nothing_left
from trainer.restoring import restore
from trainer.run_folder import find_best, find_checkpoint, run_folder_of
from trainer.trainer import StepResult, Trainer
from utils.errors import Diverged, Interrupted, UserError

# A scheduler that steps with every batch, dropout and momentum: all that would show if a state was lost.
CHANGES: dict[str, Any] = {
    "optimizer": {"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}},
    "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 15}, "interval": "step"},
    "trainer": {"save_every_steps": 2},
}


class PowerCut(Exception):
    """Ends a run in the middle of a step."""


def before_step(trainer: Trainer, number: int, happens: Callable[[], Any]) -> None:
    """Let something happen before a step, counted from 1."""
    train_step = trainer.train_step

    def step(batch: Any) -> list[StepResult]:
        if trainer.progress.step == number - 1:
            happens()
        return train_step(batch)

    trainer.train_step = step  # type: ignore[method-assign]


def cut_the_power() -> None:
    raise PowerCut


def plain(value: Any) -> Any:
    """Nested values with lists of numbers in place of tensors, so that they can be compared."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def result(trainer: Trainer) -> dict[str, Any]:
    """Everything that a run comes to: weights, optimizer, schedule, progress, random state, metrics."""
    state = {name: plain(part.state_dict()) for name, part in trainer.state.items() if name != "loggers"}
    lines = (trainer.saver.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {**state, "metrics": [{**json.loads(line), "timing": None} for line in lines]}


def go_on(run: Path, trainer: Trainer) -> Trainer:
    """Continue a run in its folder with a trainer that is new, as `train.py -r` does."""
    trainer.open_run(run)
    restore(trainer, find_checkpoint(run)[1])
    trainer.train()
    return trainer


@pytest.mark.parametrize("step", [4, 5, 6, 9, 15])
def test_a_run_that_is_cut_off_goes_on_to_the_same_numbers(tiny: Callable[..., Trainer], step: int) -> None:
    whole = tiny(**CHANGES)
    whole.train()
    expected = result(whole)
    trainer = tiny(**CHANGES)
    before_step(trainer, step, cut_the_power)
    with pytest.raises(PowerCut):
        trainer.train()
    assert result(go_on(trainer.saver.run_dir, tiny(**CHANGES))) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_after_its_step(tiny: Callable[..., Trainer], number: int) -> None:
    whole = tiny(**CHANGES)
    whole.train()
    expected = result(whole)
    trainer = tiny(**CHANGES)
    before_step(trainer, 7, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=r"after step 7 .* to go on: python train\.py -r") as stopped:
        trainer.train()
    assert stopped.value.signum == number
    run = trainer.saver.run_dir
    assert find_checkpoint(run)[1]["progress"] == {"epoch": 1, "batch": 2, "step": 7, "finished": False}
    assert result(go_on(run, tiny(**CHANGES))) == expected


@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop"])
def test_a_loss_that_is_not_finite_stops_a_run_before_it_touches_the_weights(
    tiny: Callable[..., Trainer], optimizer: str
) -> None:
    changes = {"optimizer": {"type": optimizer, "args": {"lr": 0.05}}, "trainer": {"save_every_steps": 1}}
    trainer = tiny(**changes)

    def loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (output - targets).square() * (torch.nan if trainer.progress.step == 6 else 1)

    trainer.loss.function = loss
    with pytest.raises(Diverged, match=r"step 7 \(epoch 2, batch 2\)"):
        trainer.train()
    state = find_checkpoint(trainer.saver.run_dir)[1]
    assert state["progress"]["step"] == 6
    assert all(torch.equal(state["model"][name], value) for name, value in trainer.model.state_dict().items())


def test_a_finished_run_can_be_trained_longer(tiny: Callable[..., Trainer]) -> None:
    whole = tiny(trainer={"epochs": 3})
    whole.train()
    short = tiny(trainer={"epochs": 2})
    short.train()
    assert result(go_on(short.saver.run_dir, tiny(trainer={"epochs": 3}))) == result(whole)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 1}, "has trained 3 epochs, and trainer.epochs=1 is less: nothing is left to do; .*epochs=6"),
        ({"epochs": 3}, "is finished: nothing is left to do; .*epochs=6"),
        ({"epochs": 9, "early_stop": 1}, "was stopped early; .* raise trainer.early_stop=1"),
    ],
)
def test_a_run_with_nothing_left_says_why(tiny: Callable[..., Trainer], settings: dict[str, int], said: str) -> None:
    trainer = tiny(trainer=settings)
    trainer.progress.epoch, trainer.monitor.since_best = 3, 1
    assert trainer.is_finished()
    assert re.match(f"this run {said}", nothing_left(trainer))


def test_the_latest_run_is_named_for_a_folder_of_runs(tmp_path: Path) -> None:
    for run in ("b/20260101-1", "a/20260102-1"):
        (tmp_path / run / "checkpoints").mkdir(parents=True)
    latest = tmp_path / "a" / "20260102-1"
    for folder in (tmp_path, latest.parent):
        with pytest.raises(UserError, match=f"the latest is {re.escape(str(latest))}$"):
            find_best(folder)
    assert run_folder_of(latest) == latest


@pytest.mark.filterwarnings("error")  # torch takes a resumed optimizer for one that has taken no step
@pytest.mark.parametrize(
    ("type_", "interval", "args", "length"),
    [("CosineAnnealingLR", "epoch", {}, {"T_max": 2}), ("OneCycleLR", "step", {"max_lr": 0.1}, {"total_steps": 10})],
)
def test_a_schedule_is_as_long_as_its_run_and_begins_again_for_what_is_added(
    tiny: Callable[..., Trainer], type_: str, interval: str, args: dict[str, Any], length: dict[str, int]
) -> None:
    def make(epochs: int, **more: int) -> Trainer:
        scheduler = {"type": type_, "interval": interval, "args": args | more}
        return tiny(**{**CHANGES, "lr_scheduler": scheduler, "trainer": {"epochs": epochs, "save_every_steps": 1}})

    given = make(2, **length)
    given.train()
    left_out = make(2)
    left_out.train()
    assert plain(left_out.model.state_dict()) == plain(given.model.state_dict())
    rates = [line["lr"] for line in result(given)["metrics"]]
    whole = result(go_on(left_out.saver.run_dir, make(4)))
    assert [line["lr"] for line in whole["metrics"]] == pytest.approx(2 * rates)

    # Cut off before its end, made longer, and cut off again in what was added.
    trainer = make(2)
    trainer.evaluate = lambda loader, split: cut_the_power()  # type: ignore[assignment,method-assign,return-value,unused-ignore]
    with pytest.raises(PowerCut):
        trainer.train()
    again = make(4)
    before_step(again, 18, cut_the_power)
    with pytest.raises(PowerCut):
        go_on(trainer.saver.run_dir, again)
    assert result(go_on(trainer.saver.run_dir, make(4))) == whole


def test_a_best_value_without_a_checkpoint_is_pointed_out(
    tiny: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("trainer.saving.log.warning", lambda text, *values: said.append(text % values))
    values = iter([2.0, 3.0, 1.0])
    trainer = tiny(trainer={"keep_last": 3})
    trainer.evaluate = lambda loader, split: {"val_loss": next(values)}  # type: ignore[method-assign]
    trainer.train()
    folder = trainer.saver.folder
    for epoch, expected in [(3, 0), (2, 1), (1, 1)]:  # the newest is the best, the next is not, the one before is again
        again = tiny(trainer={"keep_last": 3})
        again.open_run(trainer.saver.run_dir)
        file, state = find_checkpoint(folder / f"epoch_{epoch:04d}.pth")
        restore(again, state)
        again.saver.complete(file)
        assert len(said) == expected
        assert (folder / "best.pth").exists() == (epoch != 2)
    assert said == [
        "there will be no best.pth before val_loss is better than the 2 of epoch 1, of which there is no checkpoint"
    ]
