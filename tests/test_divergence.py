"""A loss that is not finite ends a run with the weights and the checkpoints of before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import DIGITS, NOISY, Experiment, Lab, differences, needs_posix, shared_lab, traces_of
from trainer.checkpoint import load_checkpoint, read_header
from trainer.trainer import StepResult, Trainer
from utils.config import Config
from utils.errors import Diverged
from utils.seeding import seed_everything

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.01},
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "RMSprop": {"lr": 0.01},  # has no fused version
}


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


@needs_posix
@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop"])
def test_the_run_names_step_and_samples_and_can_go_on_from_before(
    lab: Lab, optimizer: str, value: str, tmp_path: Path
) -> None:
    from data_loaders.sampler import EpochSampler

    words = [*DIGITS, "trainer.log_every=1000", f"optimizer={{type: {optimizer}, args: {{lr: 0.003}}}}"]
    reference = lab.reference(words)
    run = Experiment(lab, tmp_path, words)
    diverged = run.begin(f"loss:10:{value}")
    assert diverged.code == 3
    assert diverged.err.startswith("the loss is not finite at step 10 (epoch 2, batch 3)\n")
    order = EpochSampler(1257, 200, seed=42, shuffle=True)
    order.set_position(1)
    first = ", ".join(map(str, order.batch(2)[:8]))
    assert diverged.err.endswith(f"samples of the batch: {first} and 192 more\n")
    assert read_header(run.run / "checkpoints" / "last.pth").step == 8
    assert run.resume().code == 0
    assert differences(traces_of(run.run), reference.traces) == []


@needs_posix
def test_a_sample_that_holds_a_nan_is_given_away(lab: Lab, tmp_path: Path) -> None:
    from data_loaders.sampler import EpochSampler

    order = EpochSampler(130, 20, seed=42, shuffle=True)
    bad = order.batch(3)[5]
    run = Experiment(lab, tmp_path, [*NOISY, f"data_loader.args.bad={bad}", "trainer.save_every_steps=null"])
    diverged = run.begin()
    assert diverged.code == 3
    assert diverged.err.startswith("the loss is not finite at step 4 (epoch 1, batch 4); the batch itself holds")
    named = diverged.err.partition(", in the samples ")[2].splitlines()[0].split(", ")
    assert str(bad) in named
    assert len(named) == 2, "images lend each other a share"
    assert list((run.run / "checkpoints").iterdir()) == []


class Line(torch.nn.Module):
    """A linear model."""

    def __init__(self) -> None:
        """Make the layer."""
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        outputs: torch.Tensor = self.layer(inputs)
        return outputs


class OwnLoss(Trainer):
    """Trains on a loss with a penalty that it does not report."""

    penalties: Callable[[], float] = staticmethod(lambda: 0.0)

    def train_step(self, batch: Any) -> list[StepResult]:
        """Update the weights once."""
        inputs, targets = batch
        self.optimizer.zero_grad()
        output = self.model(inputs)
        losses = self.loss(output, targets)
        loss = losses.mean() + self.penalties()
        loss.backward()
        self.guard(loss)
        self.optimizer.step()
        return [StepResult(losses, output, targets)]


def make(run: Path, optimizer: str, kind: type[Trainer] = Trainer, by_flag: bool = False, **trainer: Any) -> Trainer:
    """Make a trainer with seven steps to an epoch, in this process; its guard may act as on an accelerator."""
    from data_loaders.dataset import InMemoryDataset
    from data_loaders.loader import Loader, Loaders

    unused = {"type": "unused"}
    sections: dict[str, Any] = {
        "name": "line",
        "seed": 1,
        "data_loader": unused,
        "model": unused,
        "loss": {"type": "MSELoss"},
        "metrics": [],
        "optimizer": {"type": optimizer, "args": OPTIMIZERS[optimizer]},
        "trainer": {"epochs": 2, "device": "cpu", "log_every": 1000} | trainer,
    }
    seed_everything(1)
    inputs = torch.randn(50, 3)
    data = InMemoryDataset(inputs, inputs.sum(dim=1, keepdim=True))
    loaders = Loaders(Loader(data, 8, seed=1, shuffle=True), Loader(data, 8), Loader(data, 8))
    made = kind(Config.model_validate(sections), Line(), loaders)
    (run / "checkpoints").mkdir(parents=True)
    made.guard.by_flag = by_flag
    made.open_run(run)
    return made


class StopAt(Exception):
    """Enough steps."""


def state_after(run: Path, optimizer: str, steps: int) -> dict[str, Any]:
    """Return weights and optimizer state after so many steps without any trouble."""
    trainer = make(run, optimizer)
    step = trainer.train_step

    def counted(batch: Any) -> list[StepResult]:
        if trainer.progress.step == steps:
            raise StopAt
        return step(batch)

    trainer.train_step = counted  # type: ignore[method-assign]
    with pytest.raises(StopAt):
        trainer.train()
    return {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}


def spoil(trainer: Trainer, step: int, value: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let the loss of one step be something else."""
    real: Any = trainer.loss.function

    def function(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses: torch.Tensor = real(output, targets)
        now = trainer.model.training and trainer.progress.step + 1 == step
        return value(losses) if now else losses

    trainer.loss.function = function


@pytest.mark.parametrize(
    ("optimizer", "by_flag"), [("AdamW", True), ("SGD", True), ("AdamW", False), ("RMSprop", False)]
)
@pytest.mark.parametrize(
    "value",
    [lambda loss: loss + torch.nan, lambda loss: loss * torch.nan, lambda loss: loss + torch.inf],
    ids=["NaN", "NaN in the gradient", "infinite with a finite gradient"],
)
def test_neither_this_step_nor_a_later_one_touches_the_weights(
    optimizer: str, by_flag: bool, value: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    before = state_after(tmp_path / "reference", optimizer, 9)
    trainer = make(tmp_path / "run", optimizer, by_flag=by_flag)
    spoil(trainer, 10, value)
    with pytest.raises(Diverged, match=r"the loss is not finite at step 10 \(epoch 2, batch 3\)"):
        trainer.train()
    after = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    assert str(after) == str(before)
    assert all(torch.equal(after["model"][name], before["model"][name]) for name in before["model"])
    # With a flag the optimizer withholds the update, and the loss is read at the end of the epoch, four steps later.
    assert trainer.progress.step == (14 if by_flag else 9)
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pth")
    assert saved["progress"] == {"epoch": 1, "batch": 0, "step": 7, "finished": False}


@pytest.mark.parametrize("trainer", [{"log_every": 1}, {"save_every_steps": 1}, {"save_every_minutes": 1e-9}])
def test_the_run_ends_where_the_loss_is_read_next(trainer: dict[str, Any], tmp_path: Path) -> None:
    made = make(tmp_path, "AdamW", by_flag=True, **trainer)
    spoil(made, 10, lambda losses: losses * torch.inf)
    with pytest.raises(Diverged, match="at step 10 "):
        made.train()
    assert made.progress.step == 10
    assert read_header(tmp_path / "checkpoints" / "last.pth").step == (7 if "log_every" in trainer else 9)


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_loss_that_is_trained_on_but_not_reported_is_watched_too(by_flag: bool, tmp_path: Path) -> None:
    trainer = make(tmp_path, "AdamW", OwnLoss, by_flag)
    assert isinstance(trainer, OwnLoss)
    trainer.penalties = lambda: torch.nan if trainer.progress.step + 1 == 10 else 0.0
    with pytest.raises(Diverged, match="at step 10 "):
        trainer.train()


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_a_gradient_has_spoilt_are_not_saved(optimizer: str, value: float, tmp_path: Path) -> None:
    trainer = make(tmp_path, optimizer, by_flag=True, save_every_steps=1)
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda gradient: gradient + value if trainer.progress.step + 1 == 10 else gradient)
    with pytest.raises(Diverged, match=r"weights have become NaN or infinite: the loss was finite, but its gradient"):
        trainer.train()
    assert read_header(tmp_path / "checkpoints" / "last.pth").step == 9
