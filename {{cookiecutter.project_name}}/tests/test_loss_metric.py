"""Losses and metrics: against plain PyTorch, and exact when the last batch is shorter."""

import json
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from model.loss import cross_entropy
from model.metric import accuracy, top_k_accuracy
from trainer.criterion import Criterion, Metrics, explain_misfit
from trainer.meter import Meter
from trainer.trainer import Trainer
from utils.config import Component, Config
from utils.errors import UserError


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.randn(37, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(5, (37,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_has_a_value_per_sample(scores: torch.Tensor, targets: torch.Tensor, smoothing: float) -> None:
    losses = cross_entropy(scores, targets, smoothing)
    whole = functional.cross_entropy(scores, targets, label_smoothing=smoothing)
    assert losses.shape == targets.shape
    torch.testing.assert_close(losses.mean(), whole)


def test_accuracy_is_the_share_of_highest_scores(scores: torch.Tensor, targets: torch.Tensor) -> None:
    right = [max(range(5), key=row.__getitem__) == target for row, target in zip(scores.tolist(), targets, strict=True)]
    assert accuracy(scores, targets).tolist() == right
    assert 0 < sum(right) < 37


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_looks_at_the_k_highest(scores: torch.Tensor, targets: torch.Tensor, k: int) -> None:
    ranks = (scores > scores.gather(1, targets[:, None])).sum(dim=1)
    assert torch.equal(top_k_accuracy(scores, targets, k), ranks < k)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("flush_every", [1, 3, 100])
def test_means_are_over_samples_however_they_were_batched(per_sample: bool, flush_every: int) -> None:
    values = torch.randn(37, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    meter = Meter()
    for number, batch in enumerate(values.split(8)):  # 8, 8, 8, 8 and 5
        meter.update("loss", batch if per_sample else batch.mean(), len(batch))
        if number % flush_every == 0:
            meter.flush()
    assert meter.means()["loss"] == pytest.approx(values.mean().item(), rel=1e-14)


def test_truths_and_half_precision_are_added_up_without_loss() -> None:
    meter = Meter()
    meter.update("truth", torch.tensor([True, False, True]), 3)
    meter.update("half", torch.full((1000,), 1.0078125, dtype=torch.bfloat16), 1000)  # the number after 1
    assert meter.means() == {"truth": pytest.approx(2 / 3), "half": 1.0078125}


def test_a_meter_tells_the_window_from_the_epoch_and_goes_on_from_its_state() -> None:
    meter = Meter()
    meter.update("loss", torch.tensor(1.0), 2)
    assert meter.window_means() == {"loss": 1}
    meter.update("loss", torch.tensor(4.0), 1)
    state = meter.state_dict()
    resumed = Meter()
    resumed.load_state_dict(state)
    assert resumed.window_means() == meter.window_means() == {"loss": 4}
    assert resumed.means() == meter.means() == {"loss": 2}
    meter.start_epoch()
    assert meter.means() == {}


def test_evaluation_weights_a_shorter_last_batch_right(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny(metrics=[{"type": "MeanAbsoluteError"}])  # 21 samples in batches of 8, 8 and 5
    inputs, wanted = trainer.loaders.valid.dataset.__getitems__(list(range(21)))
    trainer.evaluate(trainer.loaders.train, "train")  # it should not count in the next one
    trainer.model.eval()
    with torch.no_grad():
        errors = trainer.model(inputs) - wanted
    measured = trainer.evaluate(trainer.loaders.valid, "val")
    assert measured["val_loss"] == pytest.approx(errors.square().mean().item(), rel=1e-6)
    assert measured["val_mean_absolute_error"] == pytest.approx(errors.abs().mean().item(), rel=1e-6)


def test_training_loss_is_the_mean_over_the_samples_of_the_epoch(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny(dropout=0.0, optimizer={"type": "SGD", "args": {"lr": 0.0}}, trainer={"epochs": 1})
    trainer.train()  # at learning rate 0, every sample meets the same weights
    inputs, wanted = trainer.loaders.train.dataset.__getitems__(list(range(37)))
    mean = functional.mse_loss(trainer.model(inputs), wanted).item()
    reported = json.loads((trainer.saver.run_dir / "metrics.jsonl").read_text())
    assert reported["train_loss"] == pytest.approx(mean, rel=1e-6)


def test_arguments_of_the_config_reach_loss_and_metrics(
    config: Config, scores: torch.Tensor, targets: torch.Tensor
) -> None:
    config.loss = Component(type="cross_entropy", args={"label_smoothing": 0.2})
    config.metrics = [Component(type="accuracy"), Component(type="top_k_accuracy", args={"k": 2})]
    cpu = torch.device("cpu")
    assert torch.equal(Criterion(config, cpu)(scores, targets), cross_entropy(scores, targets, 0.2))
    values = Metrics(config, cpu).values(scores, targets)
    assert list(values) == ["accuracy", "top_k_accuracy"]
    assert torch.equal(values["top_k_accuracy"], top_k_accuracy(scores, targets, 2))


@pytest.mark.parametrize(
    ("output", "wanted", "message"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), r"labels run from 0 to 3, and the model tells 3 classes apart"),
        (torch.zeros(4, 3), torch.zeros(4), r"output has shape \(4, 3\), the targets \(4,\)"),
        ([torch.zeros(4, 3)], torch.zeros(4), r"the model returns a list and the targets are of shape \(4,\)"),
    ],
)
def test_what_does_not_fit_is_explained(config: Config, output: object, wanted: torch.Tensor, message: str) -> None:
    config.loss = Component(type="cross_entropy")
    with pytest.raises(UserError, match=message):
        Criterion(config, torch.device("cpu"))(output, wanted)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", ["MSELoss", "BCEWithLogitsLoss"])
def test_a_loss_of_torch_that_wants_other_targets_is_explained(
    config: Config, loss: str, scores: torch.Tensor, targets: torch.Tensor
) -> None:
    config.loss = Component(type=loss)
    message = rf"loss {loss}: .* output has shape .*{scores.dtype} and {targets.dtype}"
    with pytest.raises(UserError, match=message):
        Criterion(config, torch.device("cpu"))(scores, targets)


def test_what_fits_needs_no_explanation(scores: torch.Tensor, targets: torch.Tensor) -> None:
    assert explain_misfit(scores, targets) is None
    assert explain_misfit(scores, scores) is None
