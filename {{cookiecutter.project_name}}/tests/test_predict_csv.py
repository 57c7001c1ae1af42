"""Predictions for a CSV file: a checkpoint is all that they need, and columns are found by their names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.mlp import MLP

ROOT = Path(__file__).parents[1]
(CONFIG,) = [file for file in (ROOT / "config.json", ROOT / "configs" / "tabular_regression.json") if file.exists()]


@pytest.fixture
def checkpoint(tmp_path: Path, script: Callable[..., int]) -> Path:
    """The best checkpoint of a short run on a CSV file, which is gone since."""
    file = tmp_path / "houses.csv"
    lines = [f"{n % 7},{'' if n == 3 else n},{3 * n + n % 7},ok" for n in range(40)]
    file.write_text("\n".join(["rooms,size,price,note", *lines]))
    data = f"{{type: tables.CsvLoaders, args: {{file: {file}, target: price, features: [rooms, size], missing: mean}}}}"
    short = ["data_loader.args.batch_size=8", "trainer.epochs=2", "lr_scheduler=null", "loggers={}"]
    words = [f"data_loader={data}", "model.args.num_features=2", f"trainer.save_dir={tmp_path / 'saved'}", *short]
    assert script("train.py", "-c", CONFIG, *words, "trainer.device=cpu") == 0
    file.unlink()
    return next(tmp_path.glob("saved/*/*/checkpoints/best.pth"))


def test_each_row_gets_what_the_network_says(
    checkpoint: Path, tmp_path: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.csv"
    new.write_text("colour;size;rooms\nred;12;3\ngreen;;5\nblue;30;1\n")
    capsys.readouterr()
    assert script("predict_csv.py", "-r", checkpoint, "--delimiter", ";", new) == 0
    name, *values = capsys.readouterr().out.splitlines()

    weights = torch.load(checkpoint, weights_only=True)["model"]
    model = MLP(num_features=2).eval()
    model.load_state_dict(weights)
    rows = torch.tensor([[3.0, 12], [5.0, weights["standardize.feature_mean"][1]], [1.0, 30]])
    assert name == "price"
    assert [float(value) for value in values] == pytest.approx(model(rows).tolist(), rel=1e-5)
    assert len(set(values)) == 3

    new.write_text("size;room\n1;2\n")
    assert script("predict_csv.py", "-r", checkpoint.parents[1], "--delimiter", ";", new) == 2
    assert "there is no column rooms; did you mean `room`?" in capsys.readouterr().err
