"""What the tests share: baking projects from a clean copy, and running Python in them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from clean_copy import ROOT
from cookiecutter.main import cookiecutter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = ROOT / "{{cookiecutter.project_name}}"
QUESTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
CHOICES: dict[str, list[str]] = {name: value for name, value in QUESTIONS.items() if isinstance(value, list)}
TASKS, EXTRAS, LICENSES = CHOICES["task"], CHOICES["extras"], CHOICES["license"]

# The files that every project has, whatever its answers; all others stand in the tables of the hook.
CORE = set((ROOT / "tests" / "core_files.txt").read_text(encoding="utf-8").split())

# Everything else in the template folder is copied byte for byte.
RENDERED = ("LICENSE", "README.md", "pyproject.toml")

# Two test processes share the cores; without this each would also start a thread per core.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}


def load_hook(name: str) -> ModuleType:
    """Import a hook as it stands in the repository; its Jinja is touched by `main` alone."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings_file(folder: Path) -> Path:
    """Write settings that keep cookiecutter away from the person's own, and return their path."""
    path = folder / "settings.yaml"
    folders = {"cookiecutters_dir": str(folder / "templates"), "replay_dir": str(folder / "replay")}
    path.write_text(json.dumps(folders), encoding="utf-8")
    return path


@contextmanager
def typing(answers: dict[str, str]) -> Iterator[None]:
    """Answer cookiecutter's questions in this process; one that has no answer here gets its default."""

    def text(name: str, default: str, *_: object) -> str:
        return answers.get(name, default)

    def choice(name: str, options: list[str], *_: object) -> str:
        return options[options.index(answers.get(name, options[0]))]

    with (
        patch("cookiecutter.prompt.read_user_variable", text),
        patch("cookiecutter.prompt.read_user_choice", choice),
    ):
        yield


class Bakery:
    """Bakes projects from one clean copy of the template."""

    def __init__(self, template: Path, settings: Path) -> None:
        """Remember where the template and cookiecutter's settings are."""
        self.template = template
        self.settings = settings

    def bake(self, output: Path, **answers: str) -> Path:
        """Bake a project in this process, as if the answers were typed, and return its folder."""
        with typing(answers):
            project = cookiecutter(str(self.template), output_dir=str(output), config_file=str(self.settings))
        return Path(project)

    def type_answers(self, output: Path, **answers: str) -> subprocess.CompletedProcess[str]:
        """Run the real command and type the answers; a question without one gets its default."""
        typed = "".join(answers.get(name, "") + "\n" for name in QUESTIONS if not name.startswith("_"))
        words = [str(self.template), "--config-file", str(self.settings), "--output-dir", str(output)]
        return python("-m", "cookiecutter", *words, cwd=output, typed=typed)


def python(*words: str, cwd: Path, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, to its end."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        input=typed or "",
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=570,
    )


def succeed(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a process printed, or fail with all of it."""
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def files_of(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, with forward slashes."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def parse_toml(text: str) -> dict[str, Any]:
    """Parse the text of a TOML file."""
    return tomllib.loads(text)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file."""
    return parse_toml(path.read_text(encoding="utf-8"))
