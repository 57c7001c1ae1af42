"""Folders of image files: which images are found, what comes of them, and what is said of those that are damaged."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_loaders.image_folder import ImageFolder, ImageFolderLoaders
from data_loaders.loader import Loader
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
CONFIG = next(file for file in (ROOT / "config.json", ROOT / "configs" / "image_classification.json") if file.exists())

CLASSES = ["bright", "dark", "striped"]
KNOWN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}  # nothing is to be measured


def picture(kind: str, number: int) -> Image.Image:
    """Noise of a brightness of its own, or with stripes; each of another size."""
    noise = np.random.default_rng(number).integers(0, 60, (12 + number % 5, 14, 3))
    pixels = noise + {"bright": 180, "dark": 10, "striped": 0}[kind]
    if kind == "striped":
        pixels[:, ::2] += 150
    return Image.fromarray(pixels.astype(np.uint8))


def write(folder: Path, count: int, kinds: tuple[str, ...] = tuple(CLASSES)) -> None:
    """Write images of all kinds, as files of several types."""
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            suffix = ("png", "JPG", "webp", "bmp")[number % 4]
            picture(kind, number).save(folder / kind / f"{number:02}.{suffix}")
    (folder / kinds[0] / "notes.txt").write_text("no image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 20 training images of each class, and no other split."""
    write(tmp_path / "train", 20)
    return tmp_path


def load(folder: Path, **args: Any) -> ImageFolderLoaders:
    return ImageFolderLoaders(str(folder), **{"size": 8, "batch_size": 8, "seed": 1} | args)


def dataset(loader: Loader) -> ImageFolder:
    wrapped = loader.dataset.wrapped  # type: ignore[union-attr]
    assert isinstance(wrapped, ImageFolder)
    return wrapped


def files(loader: Loader) -> list[str]:
    return [file for file, _ in dataset(loader).samples]


def everything(loader: Loader, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    loader.set_position(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def damage(file: Path) -> Path:
    """Leave of an image its beginning, as a broken download does."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def test_splits_that_are_missing_are_split_off_class_by_class(folder: Path) -> None:
    loaders = load(folder, **KNOWN)
    splits = [files(loader) for loader in (loaders.train, loaders.valid, loaders.test)]
    assert [len(split) for split in splits] == [42, 9, 9]
    assert len({file for split in splits for file in split}) == 60
    for loader in (loaders.train, loaders.valid, loaders.test):
        samples = dataset(loader).samples
        assert torch.tensor([label for _, label in samples]).bincount().unique().numel() == 1
        assert all(Path(file).parent.name == CLASSES[label] for file, label in samples)
    assert files(load(folder, **KNOWN, seed=2).test) == splits[2]
    assert files(load(folder, **KNOWN, split_seed=1).test) != splits[2]


def test_folders_name_the_classes_and_the_one_above_them_is_asked_for(folder: Path) -> None:
    assert load(folder, **KNOWN).class_names == list(CLASSES)
    with pytest.raises(UserError, match=f"the folder above it is meant: {re.escape(str(folder))}$"):
        load(folder / "train", **KNOWN)


def test_splits_that_are_there_are_taken(folder: Path) -> None:
    write(folder / "test", 3, ("dark", "striped"))
    loaders = load(folder, **KNOWN)
    assert [len(files(loader)) for loader in (loaders.train, loaders.valid, loaders.test)] == [51, 9, 6]
    assert everything(loaders.test)[1].unique().tolist() == [1, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_normalised_by_the_training_split(folder: Path, channels: int) -> None:
    loaders = load(folder, channels=channels, mirror=False, max_shift=0)
    images, _ = everything(loaders.train)
    assert images.shape == (42, channels, 8, 8)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert images.std(dim=(0, 2, 3), correction=0).sub(1).abs().max() < 1e-4
    train = dataset(loaders.train)
    same = load(folder, channels=channels, mean=train.mean.ravel().tolist(), std=train.std.ravel().tolist())
    assert torch.equal(everything(same.valid)[0], everything(loaders.valid)[0])


def test_nothing_is_opened_before_its_batch_is_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(Image, "open", refuse)
    load(folder, **KNOWN)


def test_training_images_are_mirrored_and_shifted_anew_in_every_epoch(folder: Path) -> None:
    def images(loader: Loader, epoch: int) -> torch.Tensor:
        loader.set_position(epoch)
        return loader.load(list(range(len(dataset(loader)))))[0]  # type: ignore[no-any-return]

    loaders, plain = load(folder, **KNOWN, max_shift=1), load(folder, **KNOWN, mirror=False, max_shift=0)
    padded = torch.nn.functional.pad(images(plain.train, 0), (1, 1, 1, 1), mode="replicate")
    shifted = [padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    possible = torch.stack(shifted + [image.flip(3) for image in shifted])
    # Padding comes after mirroring, so that a mirrored image shifted to one side is one shifted to the other.
    same = (possible == images(loaders.train, 0)).all(dim=(2, 3, 4))
    assert same.any(dim=0).all()
    assert same.any(dim=1).sum() > 12
    assert not torch.equal(images(loaders.train, 1), images(loaders.train, 0))
    assert torch.equal(images(load(folder, **KNOWN, max_shift=1).train, 0), images(loaders.train, 0))
    assert torch.equal(images(loaders.valid, 1), images(plain.valid, 0))


def test_every_class_is_drawn_equally_often_if_that_is_wished(folder: Path) -> None:
    for number in range(4, 20):
        next((folder / "train" / "dark").glob(f"{number:02}.*")).unlink()
    loader = load(folder, **KNOWN, sampler="weighted").train
    counts = sum(everything(loader, epoch)[1].bincount(minlength=3) for epoch in range(10))
    assert (counts / counts.sum() - 1 / 3).abs().max() < 0.1  # type: ignore[union-attr]


def test_a_corrupt_file_is_refused_by_name(folder: Path) -> None:
    file = damage(folder / "train" / "dark" / "05.JPG")
    with pytest.raises(UserError, match=r"05\.JPG: cannot be read as an image: "):
        load(folder)
    file.write_bytes(b"")
    loader = load(folder, **KNOWN, num_workers=1).train
    with pytest.raises(UserError, match=r"^\S+05\.JPG: cannot be read as an image: [^\n]*$"):
        everything(loader)  # found by a worker, and told without its traceback
    loader.close()


def test_corrupt_files_are_left_out_with_a_warning_if_that_is_wished(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = load(folder, **KNOWN)
    bad = [damage(Path(files(loader)[0])) for loader in (whole.train, whole.valid)]
    bad.append(Path(files(whole.train)[9]))
    bad[2].write_bytes(b"no image at all")
    with caplog.at_level(logging.WARNING, "project"):
        loaders = load(folder, on_corrupt="skip", **KNOWN)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(text.split(":")[0] for text in warnings) == sorted(map(str, bad))
    for before, after, missing in [(whole.train, loaders.train, 2), (whole.valid, loaders.valid, 1)]:
        assert files(after) == [file for file in files(before) if Path(file) not in bad]
        assert len(everything(after)[1]) == after.num_samples == before.num_samples - missing


@pytest.mark.parametrize(
    ("spoil", "args", "said"),
    [
        (lambda folder: (folder / "train").rename(folder / "trian"), {}, "train: there is no such folder"),
        (lambda folder: (folder / "valid").mkdir(), {}, "valid: holds no folders"),
        (lambda folder: (folder / "train" / "empty").mkdir(), {}, "empty: holds no images"),
        (lambda folder: (folder / "test" / "dark").mkdir(parents=True), {}, "test: holds no images"),
        (lambda folder: write(folder / "test", 2, ("dark", "striped", "bright")[:1]), {"mean": [0.1]}, "3 numbers"),
        (lambda folder: (folder / "valid" / "blue").mkdir(parents=True), {}, "classes that training lacks: blue"),
        (lambda folder: None, {"test_fraction": 0.02}, "too few images to split off 2% of each class for test"),
    ],
)
def test_what_is_missing_is_told(folder: Path, spoil: Callable[[Path], Any], args: dict[str, Any], said: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=said):
        load(folder, **args)


def test_a_run_learns_and_a_model_that_does_not_fit_is_told(
    folder: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = f"{{type: image_folder.ImageFolderLoaders, args: {{folder: {folder}, size: 8, batch_size: 8}}}}"
    start = ("-c", CONFIG, f"data_loader={data}", "trainer.epochs=5", "lr_scheduler=null")
    words = (*start, "trainer.device=cpu", f"trainer.save_dir={tmp_path / 'saved'}", "model.args.channels=8")
    assert script("train.py", *words) == 2
    assert "is not built for a batch of shapes (8, 3, 8, 8) (8,)" in capsys.readouterr().err
    assert script("train.py", *words, "model.args.in_channels=3", "model.args.num_classes=2") == 2
    assert "labels run from 0 to 2, and the model tells 2 classes apart" in capsys.readouterr().err
    assert script("train.py", *words, "model.args.in_channels=3", "model.args.num_classes=3") == 0
    (run,) = (tmp_path / "saved").glob("*/*")
    assert script("test.py", "-r", run) == 0
    said = capsys.readouterr().out
    assert "3 classes: bright, dark, striped" in said
    assert float(said.split("test_accuracy ")[1].split()[0]) > 0.85
