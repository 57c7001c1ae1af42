"""What a run ran on, as `environment.json` keeps it."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from utils import environment


def git(folder: Path, *words: str, typed: str | None = None) -> str:
    """Run git, whatever the person's own settings."""
    settings = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    words = ("git", *settings, *words)
    done = subprocess.run(words, cwd=folder, input=typed, check=True, capture_output=True, encoding="utf-8")
    return done.stdout.strip()


def test_the_code_of_a_run_can_be_had_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, file = tmp_path, tmp_path / "utils" / "environment.py"
    file.parent.mkdir()
    file.write_text("lr = 1\n\n", encoding="utf-8")
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    changed = "lr = 2  # größer\n\n \n"
    file.write_text(changed, encoding="utf-8")
    monkeypatch.setattr(environment, "__file__", str(file))
    environment.record_environment(tmp_path, torch.device("cpu"), 3)

    ((start),) = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert start["git"]["commit"] == git(project, "rev-parse", "HEAD")
    git(project, "checkout", "-q", "--", "utils")
    assert file.read_text(encoding="utf-8") != changed
    git(project, "apply", "-", typed=start["git"]["diff"])
    assert file.read_text(encoding="utf-8") == changed


def test_machine_software_and_command_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", "config.json", "seed=7"])
    monkeypatch.setenv("WANDB_API_KEY", "not for any file")
    start = environment.describe_environment(torch.device("cpu"), 7)
    assert start["command"][1:] == ["train.py", "-c", "config.json", "seed=7"]
    assert start["seed"] == 7
    assert "not for any file" not in str(start)
    assert start["host"] == platform.node()
    assert start["device"] == "cpu"
    assert start["python"] == platform.python_version()
    assert start["threads"] == torch.get_num_threads()
    assert start["packages"]["torch"] == torch.__version__
    assert start["cuda"] == torch.version.cuda


def test_without_git_the_rest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    start = environment.describe_environment(torch.device("cpu"), 1)
    assert set(start["git"].values()) == {None}
