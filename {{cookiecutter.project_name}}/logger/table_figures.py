"""Pictures for regression: predicted against true values, and residuals, in the unit of the data."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from logger.contents import DPI
from logger.figures import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trainer.trainer import StepResult

_ENOUGH = 2000  # points; more would only hide each other


class TableFigures(Figures):
    """Draws from predictions of one number per sample, `(n,)` or `(n, 1)`, as the model makes them."""

    def fits(self, batch: Any, result: "StepResult") -> bool:
        """Whether there is one predicted number, and one true number, per sample."""
        output, targets = result.output, result.targets
        if not (isinstance(output, torch.Tensor) and isinstance(targets, torch.Tensor)):
            return False
        single = output.shape == targets.shape and output.shape[1:] in ((), (1,))
        return single and output.is_floating_point() and targets.is_floating_point()

    def reset(self) -> None:
        """Forget all samples."""
        self._pairs: list[torch.Tensor] = []
        self._count = 0

    def collect(self, batch: Any, result: "StepResult") -> None:
        """Keep the first samples."""
        if self._count < _ENOUGH:
            self._pairs.append(torch.stack([result.targets.flatten().float(), result.output.flatten().float()]))
            self._count += len(result.targets)

    def figures(self) -> "dict[str, Figure]":
        """Draw both, if any prediction is finite."""
        pairs = torch.cat(self._pairs, dim=1)[:, :_ENOUGH].cpu()
        true, predicted = pairs[:, pairs.isfinite().all(dim=0)].numpy()
        if not len(true):
            return {}
        name = getattr(self._trainer.loaders.train, "target", "target")
        return {
            "validation/predictions": draw_predictions(true, predicted, name),
            "validation/residuals": draw_residuals(true, predicted, name),
        }


def draw_predictions(true: NDArray[np.float32], predicted: NDArray[np.float32], name: str) -> "Figure":
    """Draw a point for each sample; on the diagonal, the prediction is right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5.5), dpi=DPI, layout="constrained")
    axis: Axes = figure.add_subplot()
    low, high = (float(function([true, predicted])) for function in (np.min, np.max))
    axis.axline((low, low), slope=1, color="grey", linewidth=1)
    axis.scatter(true, predicted, s=14, alpha=0.5, edgecolors="none")
    room = 0.04 * (high - low) or 1.0
    limits = low - room, high + room
    axis.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"true {name}", ylabel=f"predicted {name}")
    axis.set_title("predicted against true, validation data")
    axis.locator_params(nbins=6)
    axis.grid(alpha=0.3)
    return figure


def draw_residuals(true: NDArray[np.float32], predicted: NDArray[np.float32], name: str) -> "Figure":
    """Draw by how much predictions are too high, over the prediction and as a histogram."""
    from matplotlib.figure import Figure

    residuals = predicted - true
    figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
    points, bars = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    points.scatter(predicted, residuals, s=14, alpha=0.5, edgecolors="none")
    points.set(xlabel=f"predicted {name}", ylabel="predicted − true")
    bars.hist(residuals, bins=min(40, 1 + len(residuals) // 4), orientation="horizontal", alpha=0.7)
    mean, spread = float(residuals.mean()), float(residuals.std())
    points.locator_params(nbins=6)
    bars.locator_params("x", integer=True, nbins=4)
    bars.set_xlabel("samples")
    figure.suptitle(f"residuals, validation data: mean {mean:.4g}, deviation {spread:.4g}", fontsize=11)
    for axis in (points, bars):
        axis.axhline(0, color="grey", linewidth=1)
        axis.grid(alpha=0.3)
    return figure
