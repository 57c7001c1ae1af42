"""The tables of the post-generation hook are complete, and what they promise holds."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from baking import CORE, SOURCE, TASKS, files_of, load_hook
from clean_copy import ROOT, template_files

hook = load_hook("post_gen_project")
ROWS = {**hook.TASKS, **hook.ROOMS}


def module_name(file: str) -> str:
    """Return the dotted name by which Python imports a file of the project."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_by(file: str) -> set[str]:
    """Return all modules that a file may import, within functions too."""
    found = set()
    for node in ast.walk(ast.parse((SOURCE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_file_is_of_the_core_or_in_the_tables() -> None:
    template = {name.split("/", 1)[1] for name in template_files() if name.startswith(SOURCE.name)}
    listed = {file for files in ROWS.values() for file in files}
    assert template - listed == CORE
    assert listed - template == set(), "the tables name files that do not exist"
    assert listed & CORE == set()


@pytest.mark.parametrize("table", ["TASKS", "ROOMS"])
def test_no_row_is_empty_or_names_a_file_twice(table: str) -> None:
    for name, files in getattr(hook, table).items():
        assert files, name
        assert len(files) == len(set(files)), name
    if table == "ROOMS":
        every = [file for files in hook.ROOMS.values() for file in files]
        assert len(every) == len(set(every)), "a file in two rooms could not be taken away with either"


def test_the_tasks_are_the_choices_of_the_question() -> None:
    assert list(hook.TASKS) == TASKS
    for task in TASKS:
        assert f"configs/{task}.json" in hook.TASKS[task]


@pytest.mark.parametrize("row", ROWS)
def test_no_file_that_stays_imports_one_that_goes(row: str) -> None:
    going = {module_name(file) for file in ROWS[row] if file.endswith(".py")}
    staying = {file for file in files_of(SOURCE) if file.endswith(".py")} - set(ROWS[row])
    for file in staying:
        assert not imported_by(file) & going, f"{file} imports what goes with {row}"


def arranged(folder: Path, *, task: str, extras: str) -> set[str]:
    """Fill a folder with the files of the tables, let the hook arrange it, and return what is left."""
    for file in {*CORE, *(file for files in ROWS.values() for file in files)}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file, encoding="utf-8")
    hook.arrange(folder, task, extras)
    return files_of(folder)


def test_a_second_task_and_rooms_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables can be added to: shared files, and rooms that only one task has."""
    tasks = {
        "one": ("configs/one.json", "model/one.py", "model/shared.py"),
        "two": ("configs/two.json", "model/two.py", "model/shared.py", "room/of_two.py"),
        "three": ("configs/three.json",),
    }
    rooms = {"room": ("room/of_two.py", "room/general.py"), "other": ("other/deep/down.py",)}
    core = {"train.py", "model/core.py"}
    monkeypatch.setattr(hook, "TASKS", tasks)
    monkeypatch.setattr(hook, "ROOMS", rooms)
    monkeypatch.setattr("test_hooks.ROWS", {**tasks, **rooms})
    monkeypatch.setattr("test_hooks.CORE", core)
    common = core | {"config.json"}
    general = {"room/general.py", "other/deep/down.py"}
    expected = {
        ("one", "full"): common | general | {"model/one.py", "model/shared.py"},
        ("one", "minimal"): common | {"model/one.py", "model/shared.py"},
        ("two", "full"): common | general | {"model/two.py", "model/shared.py", "room/of_two.py"},
        ("two", "minimal"): common | {"model/two.py", "model/shared.py"},
        ("three", "full"): common | general,
        ("three", "minimal"): common,
    }
    for (task, extras), files in expected.items():
        folder = tmp_path / f"{task}-{extras}"
        assert arranged(folder, task=task, extras=extras) == files
        assert (folder / "config.json").read_text(encoding="utf-8") == f"configs/{task}.json"
        assert not (folder / "configs").exists()
        assert (folder / "other").exists() == (extras == "full")


@pytest.mark.parametrize("windows", [True, False])
def test_the_next_steps_fit_the_platform(windows: bool) -> None:
    steps = hook.next_steps("my-net", windows=windows)
    assert "cd my-net" in steps
    assert (r".venv\Scripts\activate" in steps) == windows
    assert ("python3 -m venv" in steps) != windows


def test_the_way_to_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "some where" / "my-net"
    monkeypatch.setenv("PWD", str(tmp_path / "some where"))
    assert hook.way_to(project).strip('"') == "my-net"
    monkeypatch.setenv("PWD", str(tmp_path))
    assert hook.way_to(project)[1:-1] == str(Path("some where", "my-net"))
    monkeypatch.setenv("PWD", str(tmp_path / "elsewhere"))
    assert hook.way_to(project)[1:-1] == str(project)
    monkeypatch.delenv("PWD")
    assert hook.way_to(project)[1:-1] == str(project)


@pytest.mark.parametrize("hook_file", ["pre_gen_project.py", "post_gen_project.py"])
def test_hooks_need_the_standard_library_alone_and_mark_their_jinja(hook_file: str) -> None:
    text = (ROOT / "hooks" / hook_file).read_text(encoding="utf-8")
    in_main = text[text.index("def main(") :]
    assert "{{" not in text.replace(in_main, "")
    assert "{%" not in text
    assert "{#" not in text
    assert in_main.count("{{") == in_main.count(" | tojson }}''')") == in_main.count("json.loads(r'''{{ ")
    imports = {name.split(".")[0] for name in imported_by(str(ROOT / "hooks" / hook_file))}
    assert imports <= {"__future__", *sys.stdlib_module_names}


def test_the_clean_copy_leaves_out_what_git_ignores() -> None:
    """Also where git is not at hand, such as in an unpacked archive."""
    names = template_files()
    assert f"{SOURCE.name}/train.py" in names
    assert not [name for name in names if "__pycache__" in name or "/saved/" in name]
