"""A baked project holds exactly the files it should, as they stand in the template."""

from __future__ import annotations

import filecmp
import itertools
import os
import re
from pathlib import Path

import pytest
from baking import (
    CORE,
    EXTRAS,
    QUESTIONS,
    RENDERED,
    SOURCE,
    TASKS,
    Bakery,
    files_of,
    load_hook,
    python,
    settings_file,
    succeed,
)
from clean_copy import clean_copy, template_files

hook = load_hook("post_gen_project")


@pytest.mark.parametrize(("task", "extras"), list(itertools.product(TASKS, EXTRAS)))
def test_a_project_holds_exactly_these_files(bakery: Bakery, task: str, extras: str, tmp_path: Path) -> None:
    project = bakery.bake(tmp_path, task=task, extras=extras)
    config = f"configs/{task}.json"
    expected = CORE | set(hook.TASKS[task])
    others = {file for name, files in hook.TASKS.items() if name != task for file in files} - expected
    for files in hook.ROOMS.values():
        expected = expected - set(files) if extras == "minimal" else expected | (set(files) - others)
    assert files_of(project) == expected - {config} | {"config.json"}

    assert filecmp.cmp(project / "config.json", SOURCE / config, shallow=False)
    for file in expected - {config, *RENDERED}:
        assert filecmp.cmp(project / file, SOURCE / file, shallow=False), f"{file} is not as in the template"
    empty = [path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert empty == []


@pytest.mark.parametrize("file", RENDERED)
def test_no_jinja_is_left_in_what_is_rendered(full: Path, minimal: Path, file: str) -> None:
    for project in (full, minimal):
        text = (project / file).read_text(encoding="utf-8")
        assert not re.search(r"\{\{|\{%|\{#|cookiecutter", text)
        assert text.endswith("\n")
        assert not text.endswith("\n\n")


def test_nothing_that_is_copied_waits_to_be_rendered(full: Path) -> None:
    for file in files_of(full) - set(RENDERED):
        text = (full / file).read_text(encoding="utf-8")
        assert not re.search(r"\{[{%#][^}]*cookiecutter", text), file
        assert "{{" not in file


def test_every_file_is_either_rendered_or_copied() -> None:
    """A new kind of file needs a pattern in `_copy_without_render`; a second README does not."""
    patterns = QUESTIONS["_copy_without_render"]
    for name in template_files():
        if name.startswith(SOURCE.name):
            file = name.split("/", 1)[1]
            copied = any(Path(file).match(pattern) for pattern in patterns)
            assert copied != (file in RENDERED), file


def test_the_questions_have_prompts_for_people() -> None:
    for name in QUESTIONS:
        if not name.startswith("_"):
            prompt = QUESTIONS["__prompts__"][name]
            if isinstance(QUESTIONS[name], list):
                assert set(prompt) == {"__prompt__", *QUESTIONS[name]}
            else:
                assert " " in prompt


def test_the_real_command_bakes_within_a_second_and_says_what_is_next(bakery: Bakery, tmp_path: Path) -> None:
    before = os.times()
    said = succeed(bakery.type_answers(tmp_path))
    after = os.times()
    for command in ("cd ", "-m venv .venv", 'pip install -e ".[dev]"', "train.py -c config.json", "tensorboard"):
        assert command in said
    # Time on the processor, for other tests run beside this one.
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 1


def test_the_caches_of_a_template_that_is_worked_on_are_not_baked(full: Path, tmp_path: Path) -> None:
    folder = clean_copy(tmp_path / "template") / SOURCE.name
    for file in (".mypy_cache/3/a.db", ".ruff_cache/b", ".pytest_cache/c/README.md", "model/__pycache__/x.pyc"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"{{ cookiecutter.nothing }} {% {# \xff")
    assert files_of(Bakery(folder.parent, settings_file(tmp_path)).bake(tmp_path)) == files_of(full)


def test_baking_over_a_project_keeps_its_runs(bakery: Bakery, tmp_path: Path) -> None:
    run = bakery.bake(tmp_path) / "saved" / "digits" / "run"
    run.mkdir(parents=True)
    words = ["--no-input", "--overwrite-if-exists", "--config-file", str(bakery.settings)]
    succeed(python("-m", "cookiecutter", str(bakery.template), *words, cwd=tmp_path))
    assert run.exists()


def test_baking_twice_into_one_folder_is_refused(bakery: Bakery, tmp_path: Path) -> None:
    succeed(bakery.type_answers(tmp_path))
    marked = tmp_path / QUESTIONS["project_name"] / "train.py"
    marked.write_text("mine", encoding="utf-8")
    result = bakery.type_answers(tmp_path)
    assert result.returncode == 1
    assert "already exists" in result.stdout
    assert marked.read_text(encoding="utf-8") == "mine"
