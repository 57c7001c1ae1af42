"""The training loop: against plain PyTorch, bit for bit, and what it does between epochs."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from trainer.build import build_trainer
from trainer.checkpoint import load_checkpoint
from trainer.trainer import Trainer
from utils.config import Config
from utils.config_files import load_config
from utils.device import move
from utils.errors import Diverged
from utils.seeding import RandomState, seed_everything

MakeTrainer = Callable[..., Trainer]
COSINE = {"type": "CosineAnnealingLR", "args": {"T_max": 3}}
PLATEAU = {"type": "ReduceLROnPlateau", "args": {"patience": 0, "factor": 0.5}}


def scripted(trainer: Trainer, val_losses: list[float]) -> Trainer:
    """Let evaluations come to the values that a test wants to see."""
    values = iter(val_losses)
    trainer.evaluate = lambda loader, split: {"val_loss": next(values)}  # type: ignore[method-assign]
    return trainer


def watched(trainer: Trainer) -> list[dict[str, float]]:
    """Keep what stands in the optimizer after each of a run's steps, and run it."""
    steps = []
    after_step = trainer.after_step

    def look_first() -> None:
        gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        steps.append({"norm": norm, "lr": float(trainer.optimizer.param_groups[0]["lr"])})
        after_step()

    trainer.after_step = look_first  # type: ignore[method-assign]
    trainer.train()
    return steps


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def epoch_of(trainer: Trainer, name: str) -> int:
    epoch: int = load_checkpoint(trainer.saver.folder / name)["progress"]["epoch"]
    return epoch


def measured(run_dir: Path) -> list[dict[str, Any]]:
    """Read what a run measured, apart from its timing."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def test_one_batch_can_be_overfitted(config: Config) -> None:
    """If this fails, look for a loss that does not fit, labels out of order, or a part without gradient."""
    trainer = build_trainer(config)
    trainer.loaders.train.set_position(0)
    batch = move(next(iter(trainer.loaders.train)), trainer.device)
    trainer.model.train()
    losses = [trainer.train_step(batch)[0].losses.mean().item() for _ in range(100)]
    assert losses[-1] < 0.1 * losses[0]


def test_the_loop_does_what_a_plain_one_does_bit_for_bit(tiny: MakeTrainer) -> None:
    trainer = tiny(lr_scheduler=COSINE)
    trainer.train()

    seed_everything(1)
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    scheduler = CosineAnnealingLR(optimizer, T_max=3)
    loader = trainer.loaders.train
    for epoch in range(3):
        model.train()
        loader.set_position(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
        scheduler.step()
    for value, plain in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(value, plain)


def test_gradients_are_clipped_as_plain_pytorch_clips_them(tiny: MakeTrainer) -> None:
    trainer = tiny(trainer={"epochs": 1, "clip_grad_norm": 0.5})
    plain = tiny(trainer={"epochs": 1})
    inputs, targets = next(iter(plain.loaders.train))
    for each in (trainer, plain):
        torch.manual_seed(5)
        each.train_step((inputs, targets))
    assert nn.utils.clip_grad_norm_(plain.model.parameters(), 0.5) > 0.5
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_gradients_are_clipped_in_every_step_and_only_on_request(tiny: MakeTrainer) -> None:
    clipped, free = watched(tiny(trainer={"clip_grad_norm": 0.5})), watched(tiny())
    assert max(step["norm"] for step in clipped) < 0.5001
    assert max(step["norm"] for step in free) > 1


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_schedule_steps_after_each_epoch_or_each_step(tiny: MakeTrainer, interval: str) -> None:
    schedule = {"type": "ExponentialLR", "args": {"gamma": 0.5}, "interval": interval}
    rates = [step["lr"] for step in watched(tiny(lr_scheduler=schedule))]
    halvings = [step // 5 if interval == "epoch" else step for step in range(15)]
    assert rates == pytest.approx([0.05 * 0.5**times for times in halvings])


def test_a_plateau_is_one_of_the_monitored_metric(tiny: MakeTrainer) -> None:
    values = [3.0, 1.0, 2.0, 2.5, 0.5, 0.6]
    trainer = scripted(tiny(trainer={"epochs": 6}, lr_scheduler=PLATEAU), values)
    trainer.train()

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.05)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    rates = []
    for value in values:
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    assert [line["lr"] for line in measured(trainer.saver.run_dir)] == rates
    assert len(set(rates)) == 3


@pytest.mark.parametrize("every", [None, 2])
def test_the_best_checkpoint_is_kept_whenever_it_was_written(tiny: MakeTrainer, every: int | None) -> None:
    settings = {"epochs": 5, "monitor": "min val_loss", "save_every_epochs": every}
    trainer = scripted(tiny(trainer=settings), [math.nan, 3.0, 1.0, 2.0, 1.5])
    trainer.train()
    assert (epoch_of(trainer, "best.pth"), epoch_of(trainer, "last.pth")) == (3, 5)
    assert [line["best"] for line in measured(trainer.saver.run_dir)] == [False, True, True, False, False]


def test_the_best_can_be_the_largest(tiny: MakeTrainer) -> None:
    trainer = scripted(tiny(trainer={"monitor": "max val_loss"}), [1.0, 3.0, 2.0])
    trainer.train()
    assert epoch_of(trainer, "best.pth") == 2


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_the_newest_regular_checkpoints_are_kept(tiny: MakeTrainer, keep: int) -> None:
    trainer = tiny(trainer={"epochs": 5, "monitor": None, "save_every_epochs": 1, "keep_last": keep})
    trainer.train()
    regular = [f"epoch_{epoch:04d}.pth" for epoch in range(6 - keep, 6)]
    assert sorted(path.name for path in trainer.saver.folder.iterdir()) == [*regular, "last.pth"]


def test_training_stops_early_when_nothing_improves(tiny: MakeTrainer) -> None:
    trainer = scripted(
        tiny(trainer={"epochs": 10, "early_stop": 2}), [3.0, 4.0, 2.0, 2.0, math.nan]
    )  # asking for a sixth would be an error
    trainer.train()
    assert trainer.progress.epoch == 5
    assert trainer.progress.finished


def test_evaluation_leaves_the_weights_alone_and_can_be_repeated(config: Config) -> None:
    trainer = build_trainer(config)
    before = weights(trainer.model)
    first = trainer.evaluate(trainer.loaders.valid, "val")
    assert identical(weights(trainer.model), before)
    assert trainer.evaluate(trainer.loaders.valid, "val") == first
    assert all(name.startswith("val_") for name in first)


def test_evaluation_leaves_the_random_state_alone_even_if_it_draws_numbers(tiny: MakeTrainer) -> None:
    trainer = tiny()
    evaluation_step = trainer.evaluation_step

    def draw(batch: Any) -> Any:
        torch.rand(1), np.random.rand(), random.random()
        return evaluation_step(batch)

    trainer.evaluation_step = draw  # type: ignore[method-assign]
    before = str(RandomState().state_dict())
    state = torch.get_rng_state()
    trainer.evaluate(trainer.loaders.valid, "val")
    assert str(RandomState().state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_test_split_is_never_read_in_training(tiny: MakeTrainer) -> None:
    trainer = tiny()
    del trainer.loaders.test
    trainer.train()


def test_the_same_seed_gives_the_same_bits(config: Config) -> None:
    def run(seed: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        config.trainer.epochs = 1
        trainer = build_trainer(config.model_copy(update={"seed": seed}))
        trainer.open_run(make_run_dir(config))
        trainer.train()
        return weights(trainer.model), measured(trainer.saver.run_dir)

    (first, first_metrics), (again, again_metrics), (other, _) = run(1), run(1), run(2)
    assert identical(first, again)
    assert first_metrics == again_metrics
    assert not identical(first, other)


def make_run_dir(config: Config) -> Path:
    """Make another run folder."""
    save_dir = Path(config.trainer.save_dir)
    folder = save_dir / f"run-{len(list(save_dir.iterdir()))}"
    (folder / "checkpoints").mkdir(parents=True)
    return folder


def test_a_checkpoint_measures_what_training_reported(finished_run: Path, script: Callable[..., int]) -> None:
    for file in ("best.pth", "last.pth"):
        checkpoint = finished_run / "checkpoints" / file
        assert script("test.py", "-r", checkpoint, "--split", "val") == 0
        report = json.loads(checkpoint.with_suffix(".val.json").read_text())
        line = measured(finished_run)[report["epoch"] - 1]
        assert report["step"] == line["step"]
        assert report["metrics"] == {name: value for name, value in line.items() if name.startswith("val_")}


def test_a_run_is_measured_on_the_test_split_by_its_best_checkpoint(
    finished_run: Path, script: Callable[..., int]
) -> None:
    assert script("test.py", "-r", finished_run) == 0
    report = json.loads((finished_run / "checkpoints" / "best.test.json").read_text())
    assert report["checkpoint"] == "best.pth"
    trainer = build_trainer(load_config([finished_run / "config.json"]))
    trainer.model.load_state_dict(load_checkpoint(finished_run / "checkpoints" / "best.pth")["model"])
    assert report["metrics"] == trainer.evaluate(trainer.loaders.test, "test")


@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop"])  # one that can withhold an update itself, and one not
def test_a_loss_that_is_not_finite_stops_the_run_before_it_harms(tiny: MakeTrainer, optimizer: str) -> None:
    trainer, healthy = (tiny(dropout=0.0, optimizer={"type": optimizer}, trainer={"log_every": 100}) for _ in range(2))
    bad_sample = trainer.loaders.train.batch_sampler.batch(3)[0]
    trainer.loaders.train.dataset.tensors[0][bad_sample] = math.nan  # type: ignore[union-attr]
    with pytest.raises(Diverged, match=r"not finite at step 4 \(epoch 1, batch 4\); the batch itself holds"):
        trainer.train()
    for _, batch in zip(range(3), healthy.loaders.train, strict=False):
        healthy.train_step(batch)
    assert identical(weights(trainer.model), weights(healthy.model))
