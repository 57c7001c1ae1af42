"""Text of a Hugging Face data set: the same pieces as of a file, grouped by length, and a model that learns from it."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from data_loaders.byte_tokens import encode
from data_loaders.hf_source import Source
from data_loaders.hf_text import HFTextLoaders
from data_loaders.loader import Loader
from data_loaders.prose import cut
from tests.conftest import CONFIGS
from trainer.build import build_trainer
from utils.config_files import load_config
from utils.errors import UserError

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="the extra `datasets` is not installed")

TEXTS = [f"{n}: " + "wörd " * (n % 23) for n in range(150)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Texts of many lengths, one of them empty and one missing."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    texts = ["", None, *TEXTS]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return f"{tmp_path}/a.jsonl"


def pieces(loader: Loader, epoch: int = 0) -> list[list[int]]:
    loader.set_position(epoch)
    found = []
    for inputs, targets in loader:
        for row, shifted in zip(inputs.tolist(), targets.tolist(), strict=True):
            known = [token for token in shifted if token != -100]
            found.append(row[: len(known)] + known[-1:])
            assert row[1 : len(known)] == known[:-1]
    return found


@pytest.mark.parametrize("max_length", [3, 16, 400])
def test_texts_are_cut_as_those_of_a_file_are(file: str, max_length: int) -> None:
    expected = sorted(piece.tolist() for text in ("", *TEXTS) for piece in cut(encode(text.encode()), max_length))
    whole = HFTextLoaders(Source(files=file), batch_size=8, max_length=max_length, seed=1)
    found = [pieces(loader) for loader in (whole.train, whole.valid, whole.test)]
    assert sorted(piece for split in found for piece in split) == expected
    stream = {"samples_per_epoch": len(found[0]), "buffer": 64, "evaluation_samples": 10_000}
    streamed = HFTextLoaders(
        Source.model_validate({"files": file, "stream": stream}), batch_size=8, max_length=max_length, seed=1
    )
    assert [sorted(pieces(loader)) for loader in (streamed.train, streamed.valid, streamed.test)] == [
        sorted(split) for split in found
    ]


def test_batches_hold_pieces_of_similar_length(file: str) -> None:
    loader = HFTextLoaders(Source(files=file), batch_size=8, max_length=400, seed=1).train
    loader.set_position(0)
    padding = torch.cat([(targets == -100).flatten() for _, targets in loader]).float().mean().item()
    assert padding < 0.1


def test_a_column_without_text_is_named(file: str) -> None:
    Path(file).write_text('{"text": 1}\n{"text": 2}\n', encoding="utf-8")
    with pytest.raises(UserError, match="column text holds int64, and no text"):
        HFTextLoaders(Source(files=file), seed=1)


def test_the_overlay_trains(file: str) -> None:
    (config,) = (file for file in CONFIGS if "Transformer" in file.read_text(encoding="utf-8"))
    overlay = next(path for path in config.parent.rglob("hf_text.yaml"))
    words = [f"data_loader.args.source.files={file}", "trainer.device=cpu", "model.args.depth=1"]
    trainer = build_trainer(load_config([config, overlay], words))
    batch = trainer.loaders.train.load_batch(0)[0]
    losses = [trainer.train_step(batch)[0].losses.mean().item() for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0]
