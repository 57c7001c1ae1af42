"""The pictures of a regression: every sample once, in the unit of the data."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from logger.table_figures import TableFigures
from trainer.trainer import StepResult


def collected(run_dir: Path, true: torch.Tensor, predicted: torch.Tensor, **names: str) -> dict[str, Any]:
    """Show samples in batches of 16."""
    figures = TableFigures(run_dir)
    figures._trainer = SimpleNamespace(loaders=SimpleNamespace(train=SimpleNamespace(**names)))  # type: ignore[assignment]
    figures.reset()
    for targets, output in zip(true.split(16), predicted.split(16), strict=True):
        result = StepResult(torch.zeros(len(targets)), output, targets)
        assert figures.fits(None, result)
        figures.collect(None, result)
    return figures.figures()


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_each_sample_is_a_point_and_a_residual(tmp_path: Path, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    true = 100 + 50 * torch.randn(shape, generator=generator)
    predicted = true + 10 * torch.randn(shape, generator=generator)
    drawn = collected(tmp_path, true, predicted, target="progression")
    assert set(drawn) == {"validation/predictions", "validation/residuals"}
    expected = np.stack([true.flatten().numpy(), predicted.flatten().numpy()], axis=1)

    (axis,) = drawn["validation/predictions"].axes
    assert np.array_equal(axis.collections[0].get_offsets(), expected)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("true progression", "predicted progression")
    assert axis.get_xlim() == axis.get_ylim()
    assert axis.get_xlim()[0] < expected.min() < expected.max() < axis.get_xlim()[1]

    points, bars = drawn["validation/residuals"].axes
    residuals = expected[:, 1] - expected[:, 0]
    assert np.array_equal(points.collections[0].get_offsets(), np.stack([expected[:, 1], residuals], axis=1))
    assert sum(bar.get_width() for bar in bars.patches) == 40
    assert f"mean {residuals.mean():.4g}, " in drawn["validation/residuals"].get_suptitle()


def test_of_many_samples_the_first_are_drawn_and_a_constant_is_no_trouble(tmp_path: Path) -> None:
    same = torch.full((3000,), 7.0)
    drawn = collected(tmp_path, same, same)
    (axis,) = drawn["validation/predictions"].axes
    assert len(axis.collections[0].get_offsets()) == 2000
    assert axis.get_xlabel() == "true target"


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    true, predicted = torch.arange(4.0), torch.tensor([0.5, torch.nan, torch.inf, 1.0])
    (axis,) = collected(tmp_path, true, predicted)["validation/predictions"].axes
    assert np.asarray(axis.collections[0].get_offsets()).tolist() == [[0.0, 0.5], [3.0, 1.0]]
    assert collected(tmp_path, true, torch.full((4,), torch.nan)) == {}


def test_other_data_does_not_fit(tmp_path: Path) -> None:
    figures, losses = TableFigures(tmp_path), torch.zeros(4)
    classes = torch.zeros(4, dtype=torch.long)
    for output, targets in [
        (torch.zeros(4, 10), classes),
        (torch.zeros(4, 2), torch.zeros(4, 2)),
        (torch.zeros(4), classes),
        ({"mean": losses}, losses),
    ]:
        assert not figures.fits(None, StepResult(losses, output, targets))


def test_collecting_reads_nothing_from_the_device(tmp_path: Path) -> None:
    """Tensors without values stand for a device that would have to be waited for."""
    values = torch.zeros(8, device="meta")
    figures = TableFigures(tmp_path)
    figures.reset()
    figures.collect(None, StepResult(values, values, values))
    assert figures._pairs[0].shape == (2, 8)
