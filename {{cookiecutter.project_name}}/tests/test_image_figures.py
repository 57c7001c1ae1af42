"""The pictures of an image classifier: what is in them."""

import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from logger.contents import picture
from logger.image_figures import ImageFigures, draw_confusion, draw_images
from trainer.trainer import StepResult, Trainer


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


def collected(
    run_dir: Path, batches: list[tuple[torch.Tensor, StepResult]], images: int, names: list[str] | None = None
) -> ImageFigures:
    figures = ImageFigures(run_dir, images=images, class_names=names)
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
    figure = draw_images(shown, ["cat", "dog"], "title")
    assert [text.get_text() for text in figure.texts] == ["title", "cat  90%", "cat  80%\nnot dog"]


def test_a_confusion_matrix_has_true_classes_from_top_to_bottom_and_predicted_ones_from_left_to_right() -> None:
    figure = draw_confusion(np.array([[5.0, 0.0], [2.0, 7.0]], np.float32), ["cat", "dog"])
    places = {text.get_text(): text.get_position() for text in figure.texts if text.get_text().isdigit()}
    (left, top), (right, bottom) = places["5"], places["7"]
    assert places == {"5": (left, top), "2": (left, bottom), "7": (right, bottom)}
    assert left < 0.5 < right
    assert bottom < 0.5 < top
    pixels = np.asarray(Image.open(io.BytesIO(picture(figure))).convert("L")).astype(int)
    height, width = pixels.shape
    beside = 0.05  # the count
    all_of_5, two_of_9, seven_of_9, none = (
        pixels[int((1 - y) * height), int((x + beside) * width)] for x, y in [*places.values(), (right, top)]
    )
    assert all_of_5 < seven_of_9 < two_of_9 < none


@pytest.mark.parametrize("options", [{"dpi": 60}, {"dpi": 200}, {"dpi": 120, "bbox_inches": "tight", "pad_inches": 0}])
def test_pixels_and_texts_fit_each_other_however_a_picture_is_saved(options: dict[str, Any]) -> None:
    figure = draw_confusion(np.eye(2, dtype=np.float32), ["cat", "dog"])

    def saved(**options: Any) -> torch.Tensor:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", **options)
        pixels = torch.from_numpy(np.array(Image.open(stream).convert("L"))).float()
        return torch.nn.functional.adaptive_avg_pool2d(pixels[None], 30)

    assert (saved(dpi=120) - saved(**options)).abs().max() < 20  # a tile and what is beside it differ by 200


def test_classes_without_a_name_have_their_number(
    tmp_path: Path, batches: list[tuple[torch.Tensor, StepResult]]
) -> None:
    figures = collected(tmp_path, batches, 5, ["cat"]).figures()
    labels = [text.get_text() for text in figures["validation/confusion_matrix"].texts]
    assert {"cat", "1", "2"} <= set(labels)


@pytest.mark.parametrize(("classes", "shown"), [(2, 2), (30, 30), (45, 45), (46, 23), (1000, 44)])
def test_a_confusion_matrix_names_as_many_classes_as_there_is_room_for(classes: int, shown: int) -> None:
    names = [f"a class with the number {number}" for number in range(classes)]
    figure = draw_confusion(np.eye(classes, dtype=np.float32), names)
    labels = [text.get_text() for text in figure.texts if text.get_text().startswith("a class")]
    assert len(labels) == 2 * shown == 2 * len(set(labels))
    assert max(map(len, labels)) <= 18
    picture(figure)


def test_other_data_does_not_fit(tmp_path: Path, batches: list[tuple[torch.Tensor, StepResult]]) -> None:
    figures, (images, result) = ImageFigures(tmp_path), batches[0]
    assert figures.fits((images, result.targets), result)
    assert not figures.fits((images[:, 0], result.targets), result)
    assert not figures.fits({"images": images}, result)
    assert not figures.fits(
        (images, result.targets), StepResult(result.losses, {"scores": result.output}, result.targets)
    )


@pytest.mark.parametrize("size", [(3, 8, 8), (1, 300, 200), (4, 1, 5)])
def test_images_of_any_size_and_number_are_drawn(size: tuple[int, int, int]) -> None:
    for count in (1, 7):
        classes = torch.zeros(count, dtype=torch.long)
        shown = torch.rand(count, *size), classes, classes, torch.rand(count)
        width, height = draw_images(shown, ["a class with a long name"], "title").get_size_inches()
        assert 3 < width < 8
        assert 0 < height < 8


def test_collecting_reads_nothing_from_the_device(tmp_path: Path) -> None:
    """Tensors without values stand for a device that would have to be waited for."""
    figures = ImageFigures(tmp_path)
    figures.reset()
    with torch.device("meta"):
        images, targets, scores = torch.zeros(8, 1, 4, 4), torch.zeros(8, dtype=torch.long), torch.zeros(8, 3)
    for _ in range(3):
        figures.collect((images, targets), StepResult(torch.zeros(8), scores, targets))
    assert figures._mistakes is not None
    assert len(figures._mistakes[0]) == 24


def test_long_names_lose_their_middle_and_korean_letters_take_two_places() -> None:
    in_pieces = unicodedata.normalize("NFD", "가나다라마바사아자차카타파하")
    names = ["a class that is called 1", in_pieces, "1" * 18, "x"]
    labels = {text.get_text() for text in draw_confusion(np.eye(4, dtype=np.float32), names).texts}
    assert {"a class …called 1", "가나다라…카타파하", "1" * 18, "x"} <= labels


def test_a_name_is_text_and_no_formula() -> None:
    shown = (torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0.9, 0.8]))
    picture(draw_images(shown, ["$a^$", "b"], "title"))
    picture(draw_confusion(np.eye(2, dtype=np.float32), ["$a^$", "b"]))


def test_names_come_from_the_data_and_samples_from_all_over_it(tmp_path: Path, tiny: Callable[..., Trainer]) -> None:
    trainer = tiny()
    trainer.loaders.class_names = ["cat", "dog", "bird"]
    figures = ImageFigures(tmp_path, images=4)
    figures.on_start(trainer)
    figures.reset()
    total = trainer.loaders.valid.num_samples
    images = torch.arange(total).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    targets, scores = torch.zeros(total, dtype=torch.long), torch.eye(3)[torch.zeros(total, dtype=torch.long)]
    for rows in torch.arange(total).split(5):
        result = StepResult(torch.zeros(len(rows)), scores[rows], targets[rows])
        figures.collect((images[rows], targets[rows]), result)
    assert figures.class_names == ["cat", "dog", "bird"]
    assert figures._samples is not None
    assert figures._samples[0][:, 0, 0, 0].tolist() == [-(-number * total // 4) for number in range(4)]
