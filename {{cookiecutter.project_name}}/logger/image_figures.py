"""Pictures for image classification: samples with predictions, the confusion matrix, the most confident mistakes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt

from logger.figures import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trainer.trainer import StepResult

RIGHT, WRONG = "#1a7f37", "#cf222e"
_COLUMNS = 6

# Images, their classes, the predicted classes, and the probability that the model gave to those.
Shown = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class ImageFigures(Figures):
    """Draws from batches of images `(n, channels, height, width)` with class numbers, and class scores for them."""

    def __init__(
        self, run_dir: Path, every: PositiveInt = 50, images: PositiveInt = 24, class_names: list[str] | None = None
    ) -> None:
        """Draw after every `every`-th epoch and after the last.

        Args:
            run_dir: the run's folder.
            every: epochs between two drawings.
            images: how many are shown, of samples and of mistakes.
            class_names: what the classes are called; None shows their numbers.
        """
        super().__init__(run_dir, every)
        self.images = images
        self.class_names = class_names

    def fits(self, batch: Any, result: "StepResult") -> bool:
        """Whether these are images, classes and scores."""
        parts = [*batch[:1], result.targets, result.output] if isinstance(batch, list | tuple) else []
        if not parts or not all(isinstance(part, torch.Tensor) for part in parts):
            return False
        images, targets, scores = parts
        return [part.ndim for part in parts] == [4, 1, 2] and len(images) == len(targets) == len(scores)

    def reset(self) -> None:
        """Forget all images."""
        self._samples: Shown | None = None
        self._mistakes: Shown | None = None
        self._matrix: torch.Tensor | None = None

    def collect(self, batch: Any, result: "StepResult") -> None:
        """Count, and keep the first images and the worst ones."""
        targets, scores = result.targets, result.output.float()
        confidence, predicted = scores.softmax(dim=1).max(dim=1)
        shown: Shown = (batch[0], targets, predicted, confidence)
        classes = scores.shape[1]
        if self._matrix is None:
            self._matrix = torch.zeros(classes * classes, device=targets.device)
        self._matrix.index_add_(0, targets * classes + predicted, torch.ones_like(confidence))
        if self._samples is None or len(self._samples[0]) < self.images:
            self._samples = _first(_join(self._samples, shown), self.images)
        self._mistakes = _most_confident_mistakes(_join(self._mistakes, shown), self.images)

    def figures(self) -> "dict[str, Figure]":
        """Draw all three; without a mistake, two."""
        assert self._matrix is not None
        assert self._samples is not None
        assert self._mistakes is not None
        wrong = _first(self._mistakes, int((self._mistakes[1] != self._mistakes[2]).sum()))
        classes = round(self._matrix.numel() ** 0.5)
        names = self.class_names or [str(number) for number in range(classes)]
        figures = {
            "validation/confusion_matrix": draw_confusion(self._matrix.view(classes, classes).cpu().numpy(), names),
            "validation/samples": draw_images(self._samples, names, "validation images as they come"),
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

    images = shown[0].float().cpu().numpy()
    columns = min(_COLUMNS, len(images))
    short = max(map(len, names)) < 4
    sheet, corners = _sheet(images, columns, above=0.3 if short else 0.45)
    height = 0.5 + 1.3 * -(-len(images) // columns)
    figure = Figure(figsize=(1 + columns, height))
    # A place by hand: to let matplotlib find one would take as long again as drawing.
    axis: Axes = figure.add_axes((0.02, 0.02, 0.96, 0.96 - 0.4 / height))
    axis.imshow(sheet, cmap="gray", interpolation="nearest")
    axis.axis("off")
    axis.set_title(title, fontsize=11)
    for (x, y), true, predicted, sure in zip(corners, *(part.tolist() for part in shown[1:]), strict=True):
        right = true == predicted
        label = f"{names[predicted]}  {sure:.0%}"
        if not right:
            label += f"{', ' if short else chr(10)}not {names[true]}"
        colour = RIGHT if right else WRONG
        axis.text(x, y, label, ha="center", va="bottom", fontsize=9, color=colour)
    return figure


def _sheet(
    images: NDArray[np.float32], columns: int, above: float
) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Put images into one, which is drawn much faster than each by itself; with the places of their labels."""
    n, channels, height, width = images.shape
    low, high = float(images.min()), float(images.max())
    scaled = np.moveaxis((images - low) / max(high - low, 1e-9), 1, -1)
    scaled = scaled[..., :3] if channels >= 3 else scaled[..., :1].repeat(3, axis=-1)
    gap = 0.1 * width
    rows = -(-n // columns)
    row, column = round(height * (1 + above)), round(width + max(1, gap))
    sheet = np.ones((rows * row, columns * column, 3), np.float32)
    corners = []
    for number, image in enumerate(scaled):
        y, x = number // columns * row + row - height, number % columns * column
        sheet[y : y + height, x : x + width] = image
        corners.append((x + width / 2 - 0.5, y - 0.6))
    return sheet, corners


def draw_confusion(matrix: NDArray[np.float32], names: list[str]) -> "Figure":
    """Draw how often each class (rows) was taken for which (columns)."""
    from matplotlib.figure import Figure

    classes = len(matrix)
    longest = max(map(len, names))
    margin = 0.1 + 0.01 * min(longest, 20)
    figure = Figure(figsize=(6, 6))
    axis: Axes = figure.add_axes((margin, margin, 0.95 - margin, 0.95 - margin))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted class", ylabel="true class", title="confusion matrix of the validation data")
    if classes <= 30:
        axis.set_xticks(range(classes), names, rotation=0 if longest < 4 else 90)
        axis.set_yticks(range(classes), names)
        for true, predicted in np.argwhere(matrix > 0).tolist():
            colour = "white" if shares[true, predicted] > 0.5 else "black" if true == predicted else WRONG
            count = f"{matrix[true, predicted]:.0f}"
            axis.text(predicted, true, count, ha="center", va="center", color=colour, fontsize=8)
    return figure
