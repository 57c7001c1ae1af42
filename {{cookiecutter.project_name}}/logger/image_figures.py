"""Pictures for image classification: samples with predictions, the confusion matrix, the most confident mistakes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width, normalize

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch.nn import functional

from logger.contents import DPI
from logger.figures import Figures
from utils.distributed import world_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.trainer import StepResult, Trainer

RIGHT, WRONG = "#1a7f37", "#cf222e"
_COLUMNS, _TILE, _GAP = 4, 110, 18  # the last two in pixels
_MATRIX = 720  # pixels of the confusion matrix
_COUNTED, _NAMED = 30, 45  # the most classes for which there is room for numbers in it, and for all names beside it
_LETTERS = 10  # that an image's width has room for, beside a percentage

# Images, their classes, the predicted classes, and the probability that the model gave to those.
Shown = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class ImageFigures(Figures):
    """Draws from batches of images `(n, channels, height, width)` with class numbers, and class scores for them."""

    def __init__(
        self, run_dir: Path, every: PositiveInt = 2000, images: PositiveInt = 24, class_names: list[str] | None = None
    ) -> None:
        """Draw now and then, and after the last epoch.

        Args:
            run_dir: the run's folder.
            every: training steps between two drawings; they come after an epoch.
            images: how many are shown, of samples and of mistakes.
            class_names: what the classes are called; None leaves it to the data, and else shows their numbers.
        """
        super().__init__(run_dir, every)
        self.images = images
        self.class_names = class_names
        self._choose_from = images

    def on_start(self, trainer: "Trainer") -> None:
        """Ask the data for the names of classes, and for how many samples there are to choose from."""
        super().on_start(trainer)
        self.class_names = self.class_names or trainer.loaders.class_names
        self._choose_from = max(self.images, trainer.loaders.valid.num_samples // world_size())

    def fits(self, batch: Any, result: "StepResult") -> bool:
        """Whether these are images, classes and scores."""
        parts = [*batch[:1], result.targets, result.output] if isinstance(batch, list | tuple) else []
        if not parts or not all(isinstance(part, torch.Tensor) for part in parts):
            return False
        images, targets, scores = parts
        return [part.ndim for part in parts] == [4, 1, 2] and len(images) == len(targets) == len(scores)

    def reset(self) -> None:
        """Forget all images."""
        self._seen = 0
        self._samples: Shown | None = None
        self._mistakes: Shown | None = None
        self._matrix: torch.Tensor | None = None

    def collect(self, batch: Any, result: "StepResult") -> None:
        """Count, and keep images from all over the split and the worst ones."""
        targets, scores = result.targets, result.output.float()
        confidence, predicted = scores.softmax(dim=1).max(dim=1)
        shown: Shown = (batch[0], targets, predicted, confidence)
        classes = scores.shape[1]
        if self._matrix is None:
            self._matrix = torch.zeros(classes * classes, device=targets.device)
        self._matrix.index_add_(0, targets * classes + predicted, torch.ones_like(confidence))
        for row in range(len(targets)):
            # Spread over all, for they may come class by class; by slices, since a device waits for other indices.
            number = self._seen + row
            if number * self.images // self._choose_from > (number - 1) * self.images // self._choose_from:
                self._samples = _first(_join(self._samples, _take(shown, slice(row, row + 1))), self.images)
        self._seen += len(targets)
        self._mistakes = _most_confident_mistakes(_join(self._mistakes, shown), self.images)

    def figures(self) -> "dict[str, Figure]":
        """Draw all three; without a mistake, two."""
        assert self._matrix is not None
        assert self._samples is not None
        assert self._mistakes is not None
        wrong = _first(self._mistakes, int((self._mistakes[1] != self._mistakes[2]).sum()))
        classes = round(self._matrix.numel() ** 0.5)
        names = list(self.class_names or [])[:classes]
        names += [str(number) for number in range(len(names), classes)]
        figures = {
            "validation/confusion_matrix": draw_confusion(self._matrix.view(classes, classes).cpu().numpy(), names),
            "validation/samples": draw_images(self._samples, names, "some validation images"),
        }
        if len(wrong[0]):
            figures["validation/mistakes"] = draw_images(wrong, names, "the most confident mistakes")
        return figures


def _join(before: Shown | None, new: Shown) -> Shown:
    if before is None:
        return new
    images, targets, predicted, confidence = (torch.cat(pair) for pair in zip(before, new, strict=True))
    return images, targets, predicted, confidence


def _take(shown: Shown, rows: Any) -> Shown:
    images, targets, predicted, confidence = (part[rows] for part in shown)
    return images, targets, predicted, confidence


def _first(shown: Shown, count: int) -> Shown:
    return _take(shown, slice(count))


def _most_confident_mistakes(shown: Shown, count: int) -> Shown:
    """Sort by confidence, right predictions last: how many are wrong is not known without asking the device."""
    _, targets, predicted, confidence = shown
    order = torch.where(predicted == targets, -confidence, confidence).topk(min(count, len(targets))).indices
    return _take(shown, order)


def draw_images(shown: Shown, names: list[str], title: str) -> "Figure":
    """Draw images side by side; above each its class, or `predicted, not true` and how sure the model was."""
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    tiles = _tiles(shown[0])
    columns = min(_COLUMNS, len(tiles))
    short = max(map(len, names)) == 1
    names = [_shortened(name, _LETTERS) for name in names]
    column, row = _TILE + _GAP, tiles.shape[1] + (24 if short else 40)
    sheet = np.full((40 + row * -(-len(tiles) // columns) + _GAP, column * max(columns, 3) + _GAP, 3), 255, np.uint8)
    height, width = sheet.shape[:2]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.text(0.5, 1 - 8 / height, title, ha="center", va="top", fontsize=11)
    font = FontProperties(size=9 if short else 8)  # one for all labels: to make it takes as long as to draw one
    for number, (tile, true, predicted, sure) in enumerate(
        zip(tiles, *(part.tolist() for part in shown[1:]), strict=True)
    ):
        x, y = _GAP + number % columns * column, 40 + number // columns * row + row - len(tile)
        sheet[y : y + len(tile), x : x + _TILE] = tile
        label, right = f"{names[predicted]}  {sure:.0%}", true == predicted
        if not right:
            label += f"{', ' if short else chr(10)}not {names[true]}"
        place = (x + _TILE / 2) / width, 1 - (y - 3) / height
        figure.text(
            *place, label, ha="center", va="bottom", font=font, color=RIGHT if right else WRONG, parse_math=False
        )
    _paint(figure, sheet)
    return figure


def _paint(figure: "Figure", pixels: NDArray[np.uint8]) -> None:
    """Put pixels `(height, width, 3)` behind the texts of a figure of their size.

    One image without axes is several times as fast as many with, and `Figure.figimage` would take as long as all texts.
    """
    from matplotlib.artist import Artist
    from matplotlib.backend_bases import RendererBase
    from matplotlib.transforms import Bbox

    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])[::-1]

    class Pixels(Artist):
        def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
            return Bbox(figure.bbox.get_points())

        def draw(self, renderer: RendererBase) -> None:
            (left, bottom), (right, top) = figure.transFigure.transform([(0, 0), (1, 1)])
            size = round(top - bottom), round(right - left)
            shown = opaque
            if size != opaque.shape[:2]:  # saved with other dots per inch
                rows, columns = (np.arange(new) * old // new for new, old in zip(size, opaque.shape[:2], strict=True))
                shown = opaque[rows][:, columns]
            context = renderer.new_gc()
            renderer.draw_image(context, left, bottom, shown)
            context.restore()

    figure.add_artist(Pixels())


def _shortened(name: str, letters: int) -> str:
    """Leave out the middle of a long name: the ends are what tells names apart."""
    name = normalize("NFC", name)  # names of files may have Korean syllables in pieces
    short, end = name, len(name) // 2
    while _width(short) > letters:
        end -= 1
        short = f"{name[:end]}…{name[-end:]}"
    return short


def _width(name: str) -> int:
    """Count letters, those of Korean, Chinese and Japanese twice."""
    return sum(1 + (east_asian_width(letter) in "WF") for letter in name)


def _tiles(images: torch.Tensor) -> NDArray[np.uint8]:
    """Scale images to one width, and their values to bytes: `(n, height, width, 3)`."""
    height, width = images.shape[2:]
    size = [max(1, round(height * _TILE / width)), _TILE]
    images = images.float().cpu()
    images = functional.interpolate(images, size, mode="area" if width > _TILE else "nearest-exact")
    low, high = images.min(), images.max()
    pixels = ((images - low) * (255 / (high - low).clamp(min=1e-9))).byte().permute(0, 2, 3, 1)
    colours = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].expand(-1, -1, -1, 3)
    return colours.numpy()


def draw_confusion(matrix: NDArray[np.float32], names: list[str]) -> "Figure":
    """Draw how often each class (rows) was taken for which (columns)."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    classes = len(matrix)
    names = [_shortened(name, 18) for name in names]
    longest = max(map(_width, names))
    font = FontProperties(size=9 if classes <= 20 else 6)
    begin, end = 0.08 + 0.0014 * longest * font.get_size(), 0.95
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    edges = (_MATRIX * np.linspace(begin, end, classes + 1)).round().astype(int)
    sizes = np.diff(edges)
    tiles = colormaps["Blues"](shares, bytes=True)[..., :3].repeat(sizes, axis=0).repeat(sizes, axis=1)
    sheet = np.full((_MATRIX, _MATRIX, 3), 255, np.uint8)
    top = _MATRIX - edges[-1]
    sheet[top - 1 : top + len(tiles) + 1, edges[0] - 1 : edges[-1] + 1] = 0  # a line around them
    sheet[top : top + len(tiles), edges[0] : edges[-1]] = tiles
    figure = Figure(figsize=(_MATRIX / DPI, _MATRIX / DPI), dpi=DPI)
    _paint(figure, sheet)
    middle = (begin + end) / 2
    figure.text(middle, 0.96, "confusion matrix of the validation data", ha="center", fontsize=12)
    figure.text(middle, 0.015, "predicted class", ha="center", fontsize=10)
    figure.text(0.015, middle, "true class", va="center", rotation=90, fontsize=10)
    places = (edges[:-1] + edges[1:]) / 2 / _MATRIX
    named = range(0, classes, -(-classes // _NAMED))
    rotation = 90 if longest * len(named) > 40 else 0  # so many letters have room side by side
    for number in named:
        place, name = places[number], names[number]
        figure.text(place, begin - 0.01, name, ha="center", va="top", rotation=rotation, font=font, parse_math=False)
        figure.text(begin - 0.01, begin + end - place, name, ha="right", va="center", font=font, parse_math=False)
    for true, predicted in np.argwhere(matrix > 0).tolist() if classes <= _COUNTED else []:
        colour = "white" if shares[true, predicted] > 0.5 else "black" if true == predicted else WRONG
        count = f"{matrix[true, predicted]:.0f}"
        place = places[predicted], begin + end - places[true]
        figure.text(*place, count, ha="center", va="center", color=colour, font=font)
    return figure
