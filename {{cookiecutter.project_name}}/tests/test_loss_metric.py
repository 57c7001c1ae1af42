"""Losses and metrics: against plain PyTorch, and exact when the last batch is shorter."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import model
from model.loss import cross_entropy, token_cross_entropy
from model.metric import (
    absolute_error,
    accuracy,
    bits_per_byte,
    class_recall,
    token_accuracy,
    top_k_accuracy,
)
from trainer.criterion import Criterion, Metrics, explain_misfit, refuse_numbers
from trainer.meter import Meter, Weighted
from trainer.trainer import Trainer
from utils.config import Component, Config, Metric
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
    config.metrics = [Metric(type="accuracy"), Metric(type="top_k_accuracy", args={"k": 2}, name="top_2")]
    cpu = torch.device("cpu")
    losses = Criterion(config, cpu)(scores, targets)
    assert isinstance(losses, torch.Tensor)
    assert torch.equal(losses, cross_entropy(scores, targets, 0.2))
    values = Metrics(config, cpu).values(scores, targets)
    assert list(values) == ["accuracy", "top_2"]
    assert isinstance(values["top_2"], torch.Tensor)
    assert torch.equal(values["top_2"], top_k_accuracy(scores, targets, 2))


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


def test_the_argument_that_makes_room_for_the_labels_is_named(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "three.py").write_text("def net(classes: int = 3, width: int = 8) -> None: ...\n", encoding="utf-8")
    monkeypatch.setattr(model, "__path__", [*model.__path__, str(tmp_path)])
    config.loss = Component(type="cross_entropy")
    config.model = Component(type="three.net")
    labels = torch.tensor([0, 1, 2, 34])
    with pytest.raises(UserError, match=r"; model\.args\.classes should be 35 or more$"):
        Criterion(config, torch.device("cpu"))(torch.zeros(4, 3), labels)
    config.model = Component(type="three.net", args={"width": 3, "classes": 4})
    with pytest.raises(UserError, match=r"tells 3 classes apart \(0 to 2\) \([^;]*$"):
        Criterion(config, torch.device("cpu"))(torch.zeros(4, 3), labels)
    config.model = Component(type="handed.over")
    with pytest.raises(UserError, match=r"tells 3 classes apart \(0 to 2\) \([^;]*$"):
        Criterion(config, torch.device("cpu"))(torch.zeros(4, 3), labels)


CLASSES = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
TOKENS = (torch.zeros(4, 5, 3), torch.zeros(4, 5, dtype=torch.int64))
NUMBERS = (torch.zeros(4, 1), torch.zeros(4, 1))


@pytest.mark.parametrize(
    ("loss", "pair", "better"),
    [
        ("cross_entropy", TOKENS, "token_cross_entropy"),
        ("cross_entropy", NUMBERS, "MSELoss"),
        ("cross_entropy", (torch.zeros(4), torch.zeros(4)), "MSELoss"),
        ("CrossEntropyLoss", TOKENS, "token_cross_entropy"),
        ("CrossEntropyLoss", NUMBERS, "MSELoss"),
        ("token_cross_entropy", CLASSES, "cross_entropy"),
        ("token_cross_entropy", NUMBERS, "MSELoss"),
        ("NormalizedMSELoss", CLASSES, "cross_entropy"),
    ],
)
def test_a_loss_that_fits_is_named(
    config: Config, loss: str, pair: tuple[torch.Tensor, torch.Tensor], better: str
) -> None:
    config.loss = Component(type=loss)

    def measure() -> None:
        Criterion(config, torch.device("cpu"))(*pair)
        refuse_numbers(loss, *pair)

    shapes = rf"loss {loss}: .* output has shape {re.escape(str(tuple(pair[0].shape)))}"
    with pytest.raises(UserError, match=rf"{shapes}.*; loss\.type={better}\b.* is for these"):
        measure()


@pytest.mark.parametrize(
    ("metric", "pair", "said"),
    [
        (Metric(type="accuracy"), TOKENS, r"\(4, 5, 3\), the targets \(4, 5\); .* \(model/metric\.py:\d+: The size of"),
        (Metric(type="MulticlassF1Score", args={"num_classes": 5}), CLASSES, r"\(4, 3\), the targets \(4,\); .* \("),
    ],
)
def test_a_metric_that_does_not_fit_is_explained(
    config: Config, metric: Metric, pair: tuple[torch.Tensor, torch.Tensor], said: str
) -> None:
    config.metrics = [metric]
    with pytest.raises(UserError, match=rf"metrics: \w+: the model's output has shape {said}"):
        Metrics(config, torch.device("cpu")).try_out(*pair)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "BCEWithLogitsLoss", "MSELoss"])
def test_a_loss_for_single_numbers_may_have_them(loss: str) -> None:
    refuse_numbers(loss, *NUMBERS)


@pytest.mark.parametrize(("loss", "said"), [("BCELoss", "between 0 and 1"), ("NLLLoss", "labels run from 0 to 9")])
def test_no_other_loss_is_named_where_that_is_not_the_mistake(config: Config, loss: str, said: str) -> None:
    config.loss = Component(type=loss)
    pairs = {
        "BCELoss": (torch.full((4, 1), 2.0), torch.zeros(4, 1)),
        "NLLLoss": (CLASSES[0], torch.tensor([0, 1, 2, 9])),
    }
    with pytest.raises(UserError, match=said) as error:
        Criterion(config, torch.device("cpu"))(*pairs[loss])
    assert "loss.type=" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", ["MSELoss", "BCEWithLogitsLoss"])
def test_a_loss_of_torch_that_wants_other_targets_is_explained(
    config: Config, loss: str, scores: torch.Tensor, targets: torch.Tensor
) -> None:
    config.loss = Component(type=loss)
    message = rf"loss {loss}: .* output has shape .*{scores.dtype} and {targets.dtype}"
    with pytest.raises(UserError, match=message):
        Criterion(config, torch.device("cpu"))(scores, targets)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", ["MSELoss", "KLDivLoss", "HingeEmbeddingLoss"])
@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((1, 1), (1,)), ((4, 3), (3,)), ((1, 3), (4, 3))])
def test_outputs_and_targets_are_not_broadcast(config: Config, loss: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    config.loss = Component(type=loss)
    criterion = Criterion(config, torch.device("cpu"))
    with pytest.raises(UserError, match=rf"loss {loss}: .* output has shape \({shapes[0][0]}.*make them alike"):
        criterion(torch.ones(shapes[0]), torch.ones(shapes[1]))
    losses = criterion(torch.ones(shapes[0]), torch.ones(shapes[0]))
    assert isinstance(losses, torch.Tensor)
    assert losses.shape == shapes[0]


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 4), (4, 1), (1, 1), (1, 4), (3, 3, 3), (1, 1, 1), (1, 1, 4)])
def test_classes_and_their_numbers_differ_in_shape(config: Config, loss: str, shape: tuple[int, ...]) -> None:
    if loss == "MultiMarginLoss" and len(shape) > 2:
        return  # it takes no more than one number for each sample
    config.loss = Component(type=loss)
    targets = torch.zeros(shape[0], *shape[2:], dtype=torch.int64)
    losses = Criterion(config, torch.device("cpu"))(torch.zeros(shape), targets)
    assert isinstance(losses, torch.Tensor)
    assert losses.shape == targets.shape


def test_what_fits_needs_no_explanation(scores: torch.Tensor, targets: torch.Tensor) -> None:
    assert explain_misfit(scores, targets) is None
    assert explain_misfit(scores, scores) is None


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of three sequences of 2, 5 and 3 tokens, and the tokens that should come next."""
    targets = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(3))
    targets[0, 2:] = targets[2, 3:] = -100
    return torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(4)), targets


def test_padding_counts_neither_in_the_loss_nor_in_metrics(tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Against the same tokens without any padding."""
    output, targets = tokens
    real = targets != -100
    whole = functional.cross_entropy(output[real], targets[real])
    torch.testing.assert_close(Weighted(*token_cross_entropy(output, targets)).mean(), whole)
    torch.testing.assert_close(Weighted(*bits_per_byte(output, targets, 2.0)).mean(), whole / math.log(2) / 2)
    right = (output[real].argmax(dim=1) == targets[real]).float().mean()
    torch.testing.assert_close(Weighted(*token_accuracy(output, targets)).mean(), right)


def test_means_over_an_epoch_are_weighted_by_tokens_not_batches(tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    output, targets = tokens
    meter = Meter()
    for begin, end in ((0, 1), (1, 3)):
        meter.update("loss", Weighted(*token_cross_entropy(output[begin:end], targets[begin:end])), end - begin)
    meter.update("other", torch.ones(3), 3)
    real = targets != -100
    assert meter.state_dict()["epoch"]["loss"][1] == 10
    assert meter.means()["loss"] == pytest.approx(functional.cross_entropy(output[real], targets[real]).item())


def test_the_recall_of_a_class_is_that_of_its_samples_alone() -> None:
    output = functional.one_hot(torch.tensor([0, 1, 1, 2, 1]), 3).float()
    hits = Weighted(*class_recall(output, torch.tensor([0, 1, 2, 1, 1]), label=1))
    assert hits.mean().item() == pytest.approx(2 / 3)


def test_errors_of_numbers_far_from_zero_are_exact(tiny: Callable[..., Trainer]) -> None:
    """R² subtracts sums of squares: in 32 bits a target of 10,000 ± 1 leaves nothing of it."""
    rmse = {"type": "MeanSquaredError", "name": "rmse", "args": {"squared": False}}
    trainer = tiny(metrics=[{"type": "R2Score"}, rmse])
    generator = torch.Generator().manual_seed(5)
    targets = 10_000 + torch.randn(1000, 1, generator=generator)
    output = targets + 0.5 * torch.randn(1000, 1, generator=generator)
    for part in range(0, 1000, 64):
        trainer.metrics.collect(output[part : part + 64], targets[part : part + 64])
    squares = (output.double() - targets.double()).square()
    r2 = 1 - squares.sum() / (targets.double() - targets.double().mean()).square().sum()
    assert trainer.metrics.collected["r2_score"].compute().item() == pytest.approx(r2.item(), abs=1e-6)
    assert trainer.metrics.collected["rmse"].compute().item() == pytest.approx(squares.mean().sqrt().item(), rel=1e-6)
    assert absolute_error(output, targets).shape == (1000, 1)
