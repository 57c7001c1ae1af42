"""The project passes its own lint and type checks, in the template folder and as baked."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from baking import QUESTIONS, SOURCE, files_of, python, read_toml, succeed
from clean_copy import ROOT
from packaging.requirements import Requirement

# Kept between runs, for checking torch's own files takes mypy most of a minute the first time.
MYPY_CACHE = os.environ.get("MYPY_CACHE_DIR", str(ROOT / ".cache" / "mypy"))


@pytest.fixture(params=["in place", "full", "minimal"])
def project(request: pytest.FixtureRequest) -> Path:
    """Return the template folder itself, and each of the baked projects."""
    return SOURCE if request.param == "in place" else Path(request.getfixturevalue(request.param))


def test_ruff_finds_nothing(project: Path) -> None:
    succeed(python("-m", "ruff", "check", "--no-cache", ".", cwd=project))


def test_the_code_is_formatted(project: Path) -> None:
    succeed(python("-m", "ruff", "format", "--no-cache", "--check", ".", cwd=project))


def test_the_types_are_right(full: Path, minimal: Path) -> None:
    """One test, for the three runs share a cache and would otherwise each check torch's files."""
    for project in (SOURCE, full, minimal):
        assert read_toml(project / "pyproject.toml")["tool"]["mypy"]["strict"] is True
        succeed(python("-m", "mypy", "--cache-dir", MYPY_CACHE, cwd=project))


def test_every_public_thing_has_a_docstring_by_the_linters_own_settings() -> None:
    assert "D" in read_toml(SOURCE / "pyproject.toml")["tool"]["ruff"]["lint"]["select"]


def test_the_template_folder_is_a_working_project_unrendered() -> None:
    settings = read_toml(SOURCE / "pyproject.toml")
    assert settings["project"]["name"] == "{{ cookiecutter.project_name }}"
    for file in files_of(SOURCE):
        if file.endswith(".py") and "__pycache__" not in file:
            compile((SOURCE / file).read_text(encoding="utf-8"), file, "exec")


def requirements(lines: list[str]) -> dict[str, str]:
    """Return the version ranges of requirements by name."""
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name.lower(): str(requirement.specifier) for requirement in parsed}


def test_the_development_requirements_contain_those_of_a_project() -> None:
    project = read_toml(SOURCE / "pyproject.toml")["project"]
    needed = requirements(project["dependencies"] + project["optional-dependencies"]["dev"])
    installed = requirements((ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines())
    assert {name: installed.get(name) for name in needed} == needed


def test_one_torch_is_pinned_and_projects_accept_it() -> None:
    pinned = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    wanted = [Requirement(line) for line in read_toml(SOURCE / "pyproject.toml")["project"]["dependencies"]]
    torch = next(requirement for requirement in wanted if requirement.name == "torch")
    assert re.fullmatch(r"==\d+\.\d+\.\d+", pinned["torch"])
    assert torch.specifier.contains(pinned["torch"].removeprefix("=="))


@pytest.mark.parametrize("workflow", [ROOT / ".github/workflows/test.yml", SOURCE / ".github/workflows/tests.yml"])
def test_the_workflows_run_what_the_readme_says(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    commands = [step["run"] for job in content["jobs"].values() for step in job["steps"] if "run" in step]
    if workflow.is_relative_to(SOURCE):
        for tool in ("ruff check", "ruff format --check", "mypy", "pytest"):
            assert any(command.startswith(tool) for command in commands)
    else:
        assert any(command.startswith("make test") for command in commands)


def test_continuous_integration_calls_exactly_the_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "make test"


def test_every_licence_choice_has_its_text() -> None:
    assert files_of(ROOT / "templates" / "licenses") == set(QUESTIONS["license"])
