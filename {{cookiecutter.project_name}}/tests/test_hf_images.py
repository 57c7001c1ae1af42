"""Images of a Hugging Face data set, as its library stores them."""

from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_loaders.hf_images import HFImageLoaders
from data_loaders.hf_source import Source
from tests.conftest import CONFIGS
from trainer.build import build_trainer
from utils.config_files import load_config
from utils.errors import UserError

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="the extra `datasets` is not installed")


def pixels(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The image of a number: its size and its colours tell which it is."""
    image = np.zeros((8 + number % 3, 8, 3), np.uint8)
    image[..., number % 3] = number + 40
    return image


def encoded(number: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels(number)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, images: Sequence[object]) -> str:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["r", "g", "b"])})
    labels = [number % 3 for number in range(len(images))]
    datasets.Dataset.from_dict({"image": images, "label": labels}, features).to_parquet(folder / "a.parquet")
    return str(folder / "a.parquet")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return write(tmp_path, [{"bytes": encoded(number), "path": None} for number in range(120)])


def test_images_are_decoded_resized_and_normalised(file: str) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    for stream in (None, {"samples_per_epoch": 96}):
        source = Source.model_validate({"files": file, "stream": stream})
        loaders = HFImageLoaders(source, batch_size=16, size=8, mean=mean, std=std, num_workers=2, seed=1)
        assert loaders.class_names == ["r", "g", "b"]
        train = loaders.train
        train.set_position(0)
        for images, labels in train:
            assert images.shape == (16, 3, 8, 8) or stream is None
            assert images.dtype == torch.float32
            colours = images.mean((2, 3)) * torch.tensor(std) + torch.tensor(mean)
            assert torch.equal(colours.argmax(1), labels)
            assert (colours.max(1).values * 255 - 40).round().int().remainder(3).equal(labels.int())
        train.close()


def test_mean_and_standard_deviation_are_measured(file: str) -> None:
    train = HFImageLoaders(Source(files=file), size=8, seed=1).train
    images = torch.cat([images for images, _ in train])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_what_is_wrong_is_named(file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column label holds int64, and no images"):
        HFImageLoaders(Source(files=file), image="label", seed=1)
    write(tmp_path, [{"bytes": b"no image", "path": "cat.png"}] * 60)
    with pytest.raises(UserError, match=r"column image: cat\.png: cannot be read as an image"):
        HFImageLoaders(Source(files=file), seed=1)


def test_the_overlay_trains(file: str) -> None:
    (config,) = (path for path in CONFIGS if "ConvNet" in path.read_text(encoding="utf-8"))
    overlay = next(config.parent.rglob("hf_images.yaml"))
    words = [f"data_loader.args.source.files={file}", "data_loader.args.size=8", "trainer.device=cpu"]
    trainer = build_trainer(load_config([config, overlay], [*words, "data_loader.args.batch_size=32"]))
    batch = trainer.loaders.train.load_batch(0)[0]
    losses = [trainer.train_step(batch)[0].losses.mean().item() for _ in range(10)]
    assert losses[-1] < 0.5 * losses[0]
