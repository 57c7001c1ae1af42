"""Token files: what is written is read, at any place, in any process, and damage is noticed."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare
from data_loaders.byte_tokens import END, decode
from data_loaders.token_file import TokenFile, TokenFileLoaders, header_of, read_header
from trainer.build import build_trainer
from utils.config_files import load_config
from utils.errors import UserError

Script = Callable[..., int]


def write(path: Path, tokens: object, dtype: str = "uint16", vocabulary: int = 257) -> Path:
    array = np.asarray(tokens, dtype)
    array.tofile(path)
    header = {"dtype": dtype, "vocabulary": vocabulary, "num_tokens": len(array), "bytes_per_token": 1.0}
    header_of(path).write_text(json.dumps(header), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Token files whose tokens count from 0 on, so that each says where it stands."""
    for name, count in (("train", 1004), ("valid", 50), ("test", 50)):
        write(tmp_path / f"{name}.bin", np.arange(count), vocabulary=1004)
    return tmp_path


def test_windows_follow_one_another_and_targets_are_what_comes_next(folder: Path) -> None:
    dataset = TokenFile(folder / "train.bin", length=10)
    assert len(dataset) == 100
    inputs, targets = dataset.__getitems__([0, 99, 7])
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.tolist() == [list(range(begin, begin + 10)) for begin in (0, 990, 70)]
    assert torch.equal(targets, inputs + 1)
    assert len(TokenFile(folder / "train.bin", length=1003)) == 1


def test_with_a_stride_of_one_there_is_a_window_at_every_place(folder: Path) -> None:
    dataset = TokenFile(folder / "train.bin", length=10, stride=1)
    assert len(dataset) == 994
    assert dataset[993][1].tolist() == list(range(994, 1004))


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", [7, 70_000, 8], "uint32", 70_001)
    assert TokenFile(path, length=2)[0][0].tolist() == [7, 70_000]


def test_a_worker_is_given_the_name_of_the_file_and_not_its_content(folder: Path) -> None:
    dataset = TokenFile(folder / "train.bin", length=10)
    first = dataset[5]
    travelled = pickle.dumps(dataset)
    assert len(travelled) < 1000
    assert torch.equal(pickle.loads(travelled)[5][0], first[0])


def test_an_epoch_is_the_same_with_workers_and_can_be_entered_anywhere(folder: Path) -> None:
    plain = TokenFileLoaders(str(folder), batch_size=8, length=10, seed=1).train
    workers = TokenFileLoaders(str(folder), batch_size=8, length=10, num_workers=2, seed=1).train
    plain.set_position(3)
    workers.set_position(3, batch=5)
    batches = [inputs.tolist() for inputs, _ in plain]
    assert [inputs.tolist() for inputs, _ in workers] == batches[5:]
    assert sorted(row[0] for batch in batches for row in batch) == list(range(0, 1000, 10))
    workers.close()


def test_damage_is_refused_with_the_name_of_the_file(folder: Path) -> None:
    path = folder / "train.bin"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            TokenFileLoaders(str(folder), length=10, seed=1)

    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    refused(r"train\.bin is damaged: it has 2006 bytes, and its header says 2008")
    path.write_bytes(whole + b"\0")
    refused(r"train\.bin is damaged")
    path.write_bytes(whole)
    for text in ("", "[]", '{"dtype": "float", "num_tokens": 3}', '{"dtype": "uint16", "num_tokens": "many"}'):
        header_of(path).write_text(text, encoding="utf-8")
        refused(r"train\.bin\.json is damaged")
    header_of(path).unlink()
    refused(r"train\.bin\.json: No such file.*prepare\.py")
    write(path, np.arange(10))
    refused(r"train\.bin: 10 tokens are too few for a window of 10 \+ 1")
    write(path, np.full(100, 999))
    with pytest.raises(UserError, match=r"train\.bin is damaged: token 999"):
        TokenFileLoaders(str(folder), length=10, seed=1).train.load([0])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two hundred paragraphs in two files, each of them in both."""
    for name, end in (("a", "\n"), ("b", "\r\n")):
        lines = [f"paragraph {number},{end}두 줄{end}{end}" for number in range(200)]
        (tmp_path / f"{name}.txt").write_bytes("".join(lines).encode())
    return tmp_path


def written(path: Path) -> list[str]:
    """Read the texts of a token file."""
    tokens = np.fromfile(path, "<u2").tolist()
    assert tokens[-1] == END
    assert read_header(path)["num_tokens"] == len(tokens)
    return decode(tokens[:-1]).split("\n\n")


def test_prepare_splits_by_shares_and_keeps_repetitions_together(script: Script, texts: Path) -> None:
    assert script("prepare.py", texts / "a.txt", texts / "b.txt", "--out", texts / "out", "--share", 0.2) == 0
    splits = [written(texts / "out" / f"{name}.bin") for name in ("train", "valid", "test")]
    everything = [f"paragraph {number},\n두 줄" for number in range(200)]
    assert sorted(text for split in splits for text in split) == sorted(2 * everything)
    assert not set(splits[0]) & (set(splits[1]) | set(splits[2]))
    assert not set(splits[1]) & set(splits[2])
    assert [len(split) / 400 for split in splits] == pytest.approx([0.6, 0.2, 0.2], abs=0.09)


def test_prepare_takes_whole_files(script: Script, texts: Path) -> None:
    (texts / "c.txt").write_text("only here", encoding="utf-8")
    words = ["--valid", texts / "b.txt", "--test", texts / "c.txt", "--out", texts]
    assert script("prepare.py", texts / "a.txt", *words) == 0
    assert written(texts / "train.bin") == written(texts / "valid.bin")
    assert written(texts / "test.bin") == ["only here"]
    assert not list(texts.glob("*.tmp*"))


def test_a_paragraph_without_end_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "LONGEST", 100)
    text = "".join(f"{number}\n" for number in range(100)) + "x" * 500
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    parts = [part.decode() for part in prepare.paragraphs([tmp_path / "a.txt"])]
    assert max(map(len, parts)) <= 200
    assert "".join(parts).replace("\n", "") == text.replace("\n", "")


def test_prepare_says_what_is_missing_and_leaves_nothing_behind(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("prepare.py", tmp_path / "none.txt", "--out", tmp_path / "out") == 2
    assert "none.txt is no file" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("one paragraph", encoding="utf-8")
    assert script("prepare.py", tmp_path / "a.txt", "--out", tmp_path / "out") == 2
    assert "too little text" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_overlay_trains_on_what_prepare_wrote(config_file: Path, script: Script, tmp_path: Path) -> None:
    if "Transformer" not in config_file.read_text(encoding="utf-8"):
        pytest.skip("the config of another task")
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(f"{number} and {number + 1}" for number in range(2000)), encoding="utf-8")
    assert script("prepare.py", text, "--out", tmp_path) == 0
    overlay = config_file.parent / "configs" / "token_file.yaml"
    overlay = overlay if overlay.exists() else config_file.parent / "token_file.yaml"
    words = [f"data_loader.args.folder={tmp_path}", "trainer.device=cpu", "model.args.depth=1"]
    trainer = build_trainer(load_config([config_file, overlay], words))
    batch = trainer.loaders.train.load_batch(0)[0]
    losses = [trainer.train_step(batch)[0].losses.mean().item() for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0]
