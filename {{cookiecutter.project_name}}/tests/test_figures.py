"""Pictures and texts of what a model does: when they are made, and where they go."""

import io
import json
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.image import imread

from logger import contents
from logger.figures import Figures
from logger.observer import Observer, Observers
from trainer.trainer import StepResult, Trainer


class Counted(Figures):
    """Draws how many batches were collected."""

    def fits(self, batch: Any, result: StepResult) -> bool:
        return len(result.targets) > 1

    def reset(self) -> None:
        self.batches = 0

    def collect(self, batch: Any, result: StepResult) -> None:
        self.batches += 1

    def figures(self) -> dict[str, Figure]:
        return {"validation/picture": Figure(figsize=(1, 1))}

    def texts(self) -> dict[str, str]:
        return {"validation/text": f"{self.batches} batches"}


class Warns(Figure):
    """Warns when it is drawn."""

    def draw(self, renderer: RendererBase) -> None:
        warnings.warn("of the user", stacklevel=1)
        super().draw(renderer)


class Gallery(Observer):
    """Keeps what is drawn and written."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.shown: list[tuple[str, int]] = []
        self.told: list[tuple[str, int]] = []

    def on_figure(self, name: str, figure: Figure, step: int) -> None:
        self.shown.append((name, step))

    def on_text(self, name: str, text: str, step: int) -> None:
        self.told.append((text, step))


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [
        ({"epochs": 5}, [2, 4, 5]),  # epochs of 5 steps: multiples of 10 are reached at the end of every second
        ({"epochs": 9, "early_stop": 2}, [2, 3]),
    ],
)
def test_pictures_come_every_so_many_steps_and_at_the_end(
    tiny: Callable[..., Trainer], settings: dict[str, Any], drawn: list[int]
) -> None:
    trainer = tiny(trainer=settings)
    gallery = Gallery(trainer.saver.run_dir)
    trainer.observers = Observers({"figures": Counted(trainer.saver.run_dir, every=10), "gallery": gallery})
    values = iter([1.0] + 9 * [2.0])
    evaluate = trainer.evaluate
    trainer.evaluate = lambda loader, split: evaluate(loader, split) | {"val_loss": next(values)}  # type: ignore[method-assign]
    trainer.train()
    assert gallery.shown == [("validation/picture", 5 * epoch) for epoch in drawn]
    assert gallery.told == [("3 batches", 5 * epoch) for epoch in drawn]


def test_where_epochs_are_long_there_is_a_picture_after_each(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny()
    gallery = Gallery(trainer.saver.run_dir)
    trainer.observers = Observers({"figures": Counted(trainer.saver.run_dir, every=3), "gallery": gallery})
    trainer.train()
    assert [step for _, step in gallery.shown] == [5, 10, 15]


def test_data_of_another_kind_is_left_alone(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny()
    gallery = Gallery(trainer.saver.run_dir)
    figures = Counted(trainer.saver.run_dir)
    figures.fits = lambda batch, result: False  # type: ignore[method-assign]
    trainer.observers = Observers({"figures": figures, "gallery": gallery})
    trainer.train()
    assert gallery.shown == gallery.told == []


def test_what_a_run_draws_and_writes_reaches_tensorboard(finished_run: Path) -> None:
    """The same pictures, to the byte, as lie in `plots/`; and texts, indented, for they are read as Markdown."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    pytest.importorskip("logger.plots")  # which writes `plots/`
    loggers = json.loads((finished_run / "config.json").read_text(encoding="utf-8"))["loggers"]
    if not any(name.endswith("_figures") and setting for name, setting in loggers.items()):
        pytest.skip("the config asks for no figures")
    files = {path.stem: path.read_bytes() for path in (finished_run / "plots").glob("*.png") if path.stem != "curves"}
    assert files
    events = EventAccumulator(str(finished_run)).Reload()
    assert set(events.Tags()["images"]) == {f"validation/{name}" for name in files}
    for name, content in files.items():
        (image,) = events.Images(f"validation/{name}")
        assert image.encoded_image_string == content
        assert image.step == events.Scalars("loss/val")[-1].step
        assert imread(io.BytesIO(content)).shape == (image.height, image.width, 4)
        assert min(image.width, image.height) > 300
    for path in (finished_run / "plots").glob("*.txt"):
        (text,) = events.Tensors(f"validation/{path.stem}/text_summary")
        shown = text.tensor_proto.string_val[0].decode()
        assert shown.splitlines() == [f"    {line}" for line in path.read_text(encoding="utf-8").splitlines()]


def test_letters_come_from_a_font_that_has_them_and_boxes_are_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    contents._tell_of_boxes.cache_clear()
    # Of the fonts that come with matplotlib, one stands for those with Korean letters: it alone has this one.
    monkeypatch.setattr(contents, "_FONTS", ("No such font", "STIXGeneral"))
    pictures = []
    for fonts in (contents.letters_of_all_languages, nullcontext, nullcontext):
        with fonts():
            figure = Figure(figsize=(1, 1))
            figure.text(0.5, 0.5, "\u20dd")
        pictures.append(contents.picture(figure))
        assert len(caplog.messages) == min(1, len(pictures) - 1)
    assert pictures[0] != pictures[1] == pictures[2]
    with pytest.warns(UserWarning, match="of the user"):
        contents.picture(Warns(figsize=(1, 1)))
    assert "boxes for letters that no font of this machine has" in caplog.text
