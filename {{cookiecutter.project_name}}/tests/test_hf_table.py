"""Tables of a Hugging Face data set: numbers by the names of columns, and the statistics of the training rows."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from data_loaders import hf_table
from data_loaders.hf_source import Source
from data_loaders.hf_table import HFTableLoaders
from trainer.build import build_trainer
from utils.config_files import load_config
from utils.errors import UserError

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="the extra `datasets` is not installed")

ROOT = Path(__file__).parents[1]
(CONFIG,) = [file for file in (ROOT / "config.json", ROOT / "configs" / "tabular_regression.json") if file.exists()]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three kinds of numbers, a text, and values that are missing."""
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hf_table, "CHUNK", 30)
    n = np.arange(200)
    columns = {"a": n % 17 + 1e6, "b": n % 3 == 0, "y": 2 * (n % 17) - n % 3, "city": [f"c{i}" for i in n]}
    columns["gaps"] = [None if i % 20 == 7 else i for i in n]
    columns["same"] = np.full(200, 0.1)
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", row_group_size=64)
    return str(tmp_path / "a.parquet")


def test_numbers_and_their_statistics(file: str) -> None:
    loaders = HFTableLoaders(Source(files=file), target="y", features=["b", "a"], seed=1)
    features, target = (torch.cat(columns).double().numpy() for columns in zip(*loaders.train, strict=True))
    assert features.shape == (len(target), 2)
    order = target * 100 + features[:, 1] % 17
    n = np.arange(200)
    known = {(float(i % 3 == 0), i % 17 + 1e6, 2.0 * (i % 17) - i % 3) for i in n}
    assert {(*row, y) for row, y in zip(features.tolist(), target.tolist(), strict=True)} <= known
    assert len(order) == loaders.train.num_samples
    for name, values in (("feature", features), ("target", target)):
        np.testing.assert_allclose(loaders.statistics[f"{name}_mean"], values.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(loaders.statistics[f"{name}_std"], values.std(axis=0), rtol=1e-6)
    assert loaders.train.state_dict()["features"] == ["b", "a"]


def test_the_statistics_of_a_stream_are_those_of_its_first_block(file: str) -> None:
    stream = {"samples_per_epoch": 120, "buffer": 64}
    loaders = HFTableLoaders(
        Source.model_validate({"files": file, "stream": stream}), target="y", features=["a"], batch_size=64, seed=1
    )
    loaders.train.set_position(0)
    features, _ = next(iter(loaders.train))
    assert loaders.statistics["feature_mean"].item() == pytest.approx(features.double().mean().item())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["city"], "column city holds string, and no numbers"),
        (["gaps"], "values are missing in gaps"),
        (["aa"], "there is no column aa; did you mean `a`?"),
    ],
)
def test_columns_that_will_not_do_are_named(file: str, columns: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", "\\?")):
        HFTableLoaders(Source(files=file), target="y", features=columns, seed=1)


def test_a_target_that_never_varies_is_refused(file: str) -> None:
    with pytest.raises(UserError, match="same is the same in all training rows"):
        HFTableLoaders(Source(files=file), target="same", features=["a"], seed=1)


@pytest.mark.parametrize("stream", ["null", "{samples_per_epoch: 160}"])
def test_the_overlay_trains(file: str, stream: str) -> None:
    overlay = next(CONFIG.parent.rglob("hf_table.yaml"))
    source = f"{{files: {file}, stream: {stream}}}"
    words = [f"data_loader.args.source={source}", "trainer.device=cpu"]
    trainer = build_trainer(load_config([CONFIG, overlay], words))
    for epoch in range(30):
        trainer.loaders.train.set_position(epoch)
        for batch in trainer.loaders.train:
            trainer.train_step(batch)
    assert trainer.evaluate(trainer.loaders.valid, "val")["val_r2"] > 0.9
