"""The options of `train.py` that try something in place of a training."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import EXTRA


def test_a_trial_whose_file_was_deleted_is_told_in_words(
    config_file: Path, script: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trainer.overfit" else real(name))
    assert script("train.py", "-c", config_file, "--overfit", "4") == 2
    assert f"--overfit: this project has no trainer/overfit.py; {EXTRA}" in capsys.readouterr().err


def test_a_trial_whose_file_was_deleted_is_not_offered(
    script: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trainer.find_lr" else real(name))
    assert script("train.py", "--help") == 0
    offered = capsys.readouterr().out
    assert "--find-lr" not in offered
    assert ("--overfit N" in offered) == (real("trainer.overfit") is not None)


def test_a_value_of_the_config_given_as_an_option_is_answered_with_how_to_give_it(
    config_file: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--epochs=3"], ["--lr", "0.1"]):
        assert script("train.py", "-c", config_file, *words) == 2
        option = words[0]
        assert f"no such option: {option}; a value of the config is a word without dashes" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-r", "run", "--profile"], ["--find-lr", "--profile", "-c"]])
def test_a_trial_is_of_a_config_and_alone(
    config_file: Path, script: Callable[..., int], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("train.py", *words, *([config_file] if words[-1] == "-c" else [])) == 2
    assert "goes with -c and a config, with no -r, and alone" in capsys.readouterr().err
