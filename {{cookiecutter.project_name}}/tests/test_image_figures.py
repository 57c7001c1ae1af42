"""The pictures of an image classifier: what is in them, when they are drawn, and where they go."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from logger.image_figures import ImageFigures, draw_confusion, draw_images
from logger.observer import Observer, Observers
from trainer.trainer import StepResult, Trainer


class Gallery(Observer):
    """Keeps what is drawn."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.shown: list[tuple[str, int]] = []

    def on_figure(self, name: str, figure: Figure, step: int) -> None:
        self.shown.append((name, step))


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, StepResult]]:
    """Five batches of images of three classes, with scores that are often wrong."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for samples in (8, 8, 8, 8, 3):
        images = torch.rand(samples, 1, 4, 4, generator=generator)
        targets = torch.randint(3, (samples,), generator=generator)
        scores = 3 * torch.randn(samples, 3, generator=generator)
        made.append((images, StepResult(torch.zeros(samples), scores, targets)))
    return made


def collected(run_dir: Path, batches: list[tuple[torch.Tensor, StepResult]], images: int) -> ImageFigures:
    figures = ImageFigures(run_dir, images=images)
    figures.reset()
    for inputs, result in batches:
        assert figures.fits((inputs, result.targets), result)
        figures.collect((inputs, result.targets), result)
    return figures


def test_every_sample_is_counted_and_the_worst_are_kept(
    tmp_path: Path, batches: list[tuple[torch.Tensor, StepResult]]
) -> None:
    figures = collected(tmp_path, batches, images=5)
    images = torch.cat([inputs for inputs, _ in batches])
    targets = torch.cat([result.targets for _, result in batches])
    confidence, predicted = torch.cat([result.output for _, result in batches]).softmax(dim=1).max(dim=1)

    expected = np.zeros((3, 3))
    for true, guess in zip(targets.tolist(), predicted.tolist(), strict=True):
        expected[true, guess] += 1
    assert figures._matrix is not None
    assert np.array_equal(figures._matrix.view(3, 3).numpy(), expected)

    wrong = [(sure, number) for number, sure in enumerate(confidence.tolist()) if targets[number] != predicted[number]]
    worst = [number for _, number in sorted(wrong, reverse=True)[:5]]
    assert len(worst) == 5
    assert figures._mistakes is not None
    assert torch.equal(figures._mistakes[0], images[worst])
    assert figures._samples is not None
    assert torch.equal(figures._samples[0], images[:5])
    assert set(figures.figures()) == {f"validation/{name}" for name in ("confusion_matrix", "samples", "mistakes")}


def test_where_nothing_is_wrong_there_is_no_picture_of_mistakes(
    tmp_path: Path, batches: list[tuple[torch.Tensor, StepResult]]
) -> None:
    for _, result in batches:
        result.output = 9 * torch.nn.functional.one_hot(result.targets, 3)
    assert "validation/mistakes" not in collected(tmp_path, batches, images=5).figures()


def test_labels_say_what_was_predicted(batches: list[tuple[torch.Tensor, StepResult]]) -> None:
    shown = (torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0.9, 0.8]))
    (axis,) = draw_images(shown, ["cat", "dog"], "title").axes
    assert [text.get_text() for text in axis.texts] == ["cat  90%", "cat  80%, not dog"]
    (axis,) = draw_confusion(np.array([[5.0, 0.0], [2.0, 7.0]], np.float32), ["cat", "dog"]).axes
    assert {text.get_position(): text.get_text() for text in axis.texts} == {(0, 0): "5", (0, 1): "2", (1, 1): "7"}


@pytest.mark.parametrize(("settings", "drawn"), [({"epochs": 5}, [2, 4, 5]), ({"epochs": 9, "early_stop": 2}, [2, 3])])
def test_pictures_come_every_few_epochs_and_at_the_end(
    tiny: Callable[..., Trainer], settings: dict[str, Any], drawn: list[int]
) -> None:
    trainer = tiny(trainer=settings)
    figures, gallery = ImageFigures(trainer.saver.run_dir, every=2), Gallery(trainer.saver.run_dir)
    figures.fits = lambda batch, result: True  # type: ignore[method-assign]
    figures.collect = lambda batch, result: None  # type: ignore[method-assign]
    figures.figures = lambda: {"picture": Figure()}  # type: ignore[method-assign]
    trainer.observers = Observers({"figures": figures, "gallery": gallery})
    values = iter([1.0] + 9 * [2.0])
    evaluate = trainer.evaluate
    trainer.evaluate = lambda loader, split: evaluate(loader, split) | {"val_loss": next(values)}  # type: ignore[method-assign]
    trainer.train()
    assert gallery.shown == [("picture", 5 * epoch) for epoch in drawn]


def test_data_of_another_kind_is_left_alone(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny()
    gallery = Gallery(trainer.saver.run_dir)
    trainer.observers = Observers({"figures": ImageFigures(trainer.saver.run_dir), "gallery": gallery})
    trainer.train()
    assert gallery.shown == []
    unlike = StepResult(torch.zeros(2), {"scores": torch.zeros(2, 3)}, torch.zeros(2))
    assert not ImageFigures(trainer.saver.run_dir).fits({"images": torch.zeros(2, 1, 4, 4)}, unlike)


def test_the_pictures_of_a_run_reach_tensorboard(finished_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(finished_run)).Reload()
    for name in ("confusion_matrix", "samples"):
        (image,) = events.Images(f"validation/{name}")
        assert image.step == events.Scalars("loss/val")[-1].step
        assert imread(io.BytesIO(image.encoded_image_string)).shape == (image.height, image.width, 4)
        assert min(image.width, image.height) > 300


def test_collecting_reads_nothing_from_the_device(tmp_path: Path) -> None:
    """Tensors without values stand for a device that would have to be waited for."""
    figures = ImageFigures(tmp_path)
    figures._trainer = SimpleNamespace(progress=SimpleNamespace(epoch=49), monitor=SimpleNamespace(patience=None))  # type: ignore[assignment]
    with torch.device("meta"):
        images, targets, scores = torch.zeros(8, 1, 4, 4), torch.zeros(8, dtype=torch.long), torch.zeros(8, 3)
    for _ in range(3):
        figures.on_evaluation_batch((images, targets), StepResult(torch.zeros(8), scores, targets))
    assert figures._mistakes is not None
    assert len(figures._mistakes[0]) == 24
