"""The picture of a run's curves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from logger.plots import Plots
from trainer.trainer import Trainer


def colours(picture: Path) -> set[tuple[int, int, int]]:
    pixels = (imread(picture)[:, :, :3] * 255).astype(int).reshape(-1, 3)
    return {tuple(pixel) for pixel in pixels[:: max(1, len(pixels) // 200_000)].tolist()}


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # of the first and the second curve


def test_a_run_that_asks_for_plots_ends_with_a_picture(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny(loggers={"plots": True})
    trainer.train()
    assert {BLUE, ORANGE} <= colours(trainer.saver.run_dir / "plots" / "curves.png")


def test_the_pictures_and_texts_of_others_are_kept_and_the_newest_wins(tmp_path: Path) -> None:
    plots = Plots(tmp_path)
    for size in (2, 3):
        plots.on_figure("validation/mistakes", Figure(figsize=(size, 1)), step=size)
        plots.on_text("validation/written", f"한 {size}", step=size)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["mistakes.png", "written.txt"]
    assert imread(tmp_path / "plots" / "mistakes.png").shape[1] == 360
    assert (tmp_path / "plots" / "written.txt").read_text(encoding="utf-8") == "한 3"


def test_there_is_a_chart_for_each_quantity_that_is_validated(tmp_path: Path, tiny: Callable[..., Trainer]) -> None:
    widths = []
    for names in (["loss"], ["loss", "accuracy"]):
        line = {"epoch": 1, "best": False} | {f"{split}_{name}": 0.5 for name in names for split in ("train", "val")}
        (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        Plots(tmp_path).on_end(tiny())
        widths.append(imread(tmp_path / "plots" / "curves.png").shape[1])
    assert widths[1] == 2 * widths[0]


def test_a_quantity_without_a_training_curve_is_drawn_alone(tmp_path: Path, tiny: Callable[..., Trainer]) -> None:
    lines = [{"epoch": epoch, "best": epoch == 2, "train_loss": 1.0, "val_f1": 0.1 * epoch} for epoch in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Plots(tmp_path).on_end(tiny())
    found = colours(tmp_path / "plots" / "curves.png")
    assert ORANGE in found, "validation has its colour everywhere"
    assert BLUE not in found


@pytest.mark.parametrize("text", ["", '{"epoch": 1, "best": false, "train_loss": 1.0, "lr": 0.1}\n'])
def test_a_run_with_nothing_to_draw_draws_nothing(tmp_path: Path, tiny: Callable[..., Trainer], text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    Plots(tmp_path).on_end(tiny())
    assert not (tmp_path / "plots").exists()
