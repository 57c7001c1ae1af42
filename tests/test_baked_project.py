"""A baked project trains, stops, goes on and is evaluated, each in a process of its own, and its tests pass."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from baking import ENVIRONMENT, SOURCE, Bakery, load_hook, python, succeed

hook = load_hook("post_gen_project")

# The schedule is shortened too, for one that would never reach its end is refused as a mistake.
TWO_EPOCHS = ("trainer.epochs=2",)


def train(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `train.py` in a project."""
    return python("train.py", *words, cwd=project)


def lines_of(run: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's metrics file."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def only_run(project: Path) -> Path:
    """Return the folder of the one run that a project has."""
    (run,) = (project / "saved").glob("*/*")
    return run


@pytest.fixture(scope="session")
def trained(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with one run of two epochs. Tests that change it work on a copy."""
    project = tmp_path_factory.mktemp("trained") / full.name
    shutil.copytree(full, project)
    result = train(project, "-c", "config.json", *TWO_EPOCHS)
    succeed(result)
    assert "\r" not in result.stdout + result.stderr, "the progress bar is silent when not at a terminal"
    return project


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained project."""
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def test_a_run_leaves_what_the_readme_says(trained: Path) -> None:
    run = only_run(trained)
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    expected = {"config.json", "environment.json", "train.log", "metrics.jsonl"}
    assert expected | {"checkpoints/last.pth", "checkpoints/best.pth"} <= names
    assert any(name.startswith("events.out.tfevents.") for name in names)
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["trainer"]["epochs"] == 2
    entries = lines_of(run)
    assert [entry["epoch"] for entry in entries] == [1, 2]
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
        assert all(isinstance(entry[name], float) for entry in entries)
    for checkpoint in ("last.pth", "best.pth"):
        weights = torch.load(run / "checkpoints" / checkpoint, weights_only=True)["model"]
        assert all(isinstance(value, torch.Tensor) for value in weights.values())


def test_a_run_goes_on_in_its_folder(project: Path) -> None:
    run = only_run(project)
    before = lines_of(run)
    succeed(train(project, "-r", str(run.relative_to(project)), "trainer.epochs=4"))
    assert only_run(project) == run
    after = lines_of(run)
    assert after[:2] == before
    assert [entry["epoch"] for entry in after] == [1, 2, 3, 4]
    steps = [entry["step"] for entry in after]
    assert steps == [steps[0] * epoch for epoch in (1, 2, 3, 4)]


def test_evaluation_agrees_with_training_and_writes_beside_the_checkpoint(project: Path) -> None:
    run = only_run(project)
    for checkpoint in ("best", "last"):
        file = run / "checkpoints" / f"{checkpoint}.pth"
        succeed(python("test.py", "-r", str(file), "--split", "val", cwd=project))
        report = json.loads(file.with_suffix(".val.json").read_text(encoding="utf-8"))
        reported = next(entry for entry in lines_of(run) if entry["epoch"] == report["epoch"])
        assert report["metrics"] == {name: reported[name] for name in ("val_loss", "val_accuracy")}

    succeed(python("test.py", "-r", str(run), cwd=project))
    report = json.loads((run / "checkpoints" / "best.test.json").read_text(encoding="utf-8"))
    assert report["checkpoint"] == "best.pth"
    assert set(report["metrics"]) == {"test_loss", "test_accuracy"}


def test_the_shipped_config_reaches_its_accuracy(full: Path, tmp_path: Path) -> None:
    """What `make demo` does, and the number it promises."""
    project = Path(shutil.copytree(full, tmp_path / full.name))
    succeed(train(project, "-c", "config.json"))
    succeed(python("test.py", "-r", str(only_run(project)), cwd=project))
    report = json.loads((only_run(project) / "checkpoints" / "best.test.json").read_text(encoding="utf-8"))
    assert report["metrics"]["test_accuracy"] >= 0.97


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("-c", "config.json", "trainer.epoch=2"), "epochs"),
        (("-c", "config.json", "model.args.chanels=2"), "chanels"),
        (("-c", "config.jsn"), "config.jsn"),
        (("-r", "saved/digits/nothing"), "saved/digits/nothing"),
    ],
)
def test_a_mistake_is_told_in_words_and_starts_nothing(full: Path, words: tuple[str, ...], named: str) -> None:
    result = train(full, *words)
    assert result.returncode == 2
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    assert not (full / "saved").exists()


def test_asking_for_a_room_that_is_not_there_is_told_in_words(minimal: Path) -> None:
    result = train(minimal, "-c", "config.json", "loggers.plots=true")
    assert result.returncode == 2
    assert "plots" in result.stderr
    assert result.stderr.endswith("copy it, and what it imports, from a project generated with extras=full\n")
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to another process")
def test_a_run_stopped_by_ctrl_c_says_how_to_go_on_and_does(full: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(full, tmp_path / full.name))
    words = [sys.executable, "-u", "train.py", "-c", "config.json", "trainer.epochs=5", "lr_scheduler=null"]
    with subprocess.Popen(
        words, cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("epoch") and " 2/" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    run = only_run(project)
    assert f"python train.py -r {run.relative_to(project)}" in rest
    assert "Traceback" not in rest
    succeed(train(project, "-r", str(run.relative_to(project))))
    assert [entry["epoch"] for entry in lines_of(run)] == [1, 2, 3, 4, 5]


def run_its_tests(project: Path, *files: str) -> None:
    """Run the project's own suite, as its README says, or some files of it."""
    said = succeed(python("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=project))
    assert " passed" in said
    assert not (project / "saved").exists(), "the project's tests write into temporary folders alone"


def test_the_projects_own_tests_pass(full: Path) -> None:
    run_its_tests(full)


def test_a_minimal_projects_own_tests_pass(bakery: Bakery, tmp_path: Path) -> None:
    """Those of the core without any room, and in another task than the full project."""
    run_its_tests(bakery.bake(tmp_path, extras="minimal", task="language_modeling"))


def test_the_tests_of_tables_pass(bakery: Bakery, tmp_path: Path) -> None:
    """Those that neither of the two projects above has, nor any room."""
    project = bakery.bake(tmp_path, extras="minimal", task="tabular_regression")
    own = [file for file in hook.TASKS["tabular_regression"] if file.startswith("tests/") and (project / file).exists()]
    run_its_tests(project, *own)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("language_modeling", ("data_loader.args.files=[README.md]", "model.args.width=8", "model.args.depth=1")),
        ("tabular_regression", ()),
    ],
)
def test_evaluation_agrees_with_training_in_the_other_tasks(
    bakery: Bakery, task: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    project = bakery.bake(tmp_path, extras="minimal", task=task)
    succeed(train(project, "-c", "config.json", *TWO_EPOCHS, *words))
    run = only_run(project)
    for split in ("val", "test"):
        succeed(python("test.py", "-r", str(run), "--split", split, cwd=project))
    reports = {
        split: json.loads((run / "checkpoints" / f"best.{split}.json").read_text(encoding="utf-8"))
        for split in ("val", "test")
    }
    reported = next(entry for entry in lines_of(run) if entry["epoch"] == reports["val"]["epoch"])
    assert reports["val"]["metrics"] == {name: reported[name] for name in reported if name.startswith("val_")}
    assert {name.removeprefix("test_") for name in reports["test"]["metrics"]} == {
        name.removeprefix("val_") for name in reports["val"]["metrics"]
    }


def rooms_of_tasks() -> Iterator[tuple[str, str]]:
    """Yield each room with each task that has files of its own in it, or else with the first of all."""
    for room, files in hook.ROOMS.items():
        tasks = [task for task in hook.TASKS if set(files) & set(hook.TASKS[task])]
        yield from ((room, task) for task in tasks or list(hook.TASKS)[:1])


@pytest.mark.parametrize(("room", "task"), list(rooms_of_tasks()))
def test_a_rooms_tests_pass_with_the_core_alone(bakery: Bakery, room: str, task: str, tmp_path: Path) -> None:
    """With those of the core without any room, above, this is every project that rooms were taken from."""
    project = bakery.bake(tmp_path, extras="minimal", task=task)
    files = [file for file in hook.ROOMS[room] if file not in hook.dropped(task, "full")]
    for file in files:
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCE / file, project / file)
    again = task != next(each for name, each in rooms_of_tasks() if name == room)
    own = set(hook.TASKS[task]) if again else set(files)
    run_its_tests(project, *(file for file in files if file.startswith("tests/") and file in own))


@pytest.mark.parametrize("room", hook.ROOMS)
def test_without_any_one_room_the_remaining_tests_pass(full: Path, room: str, tmp_path: Path) -> None:
    """All are found and can be imported; `make soak` runs them too, which takes a minute for each room."""
    project = Path(shutil.copytree(full, tmp_path / full.name))
    hook.delete(project, {file for file in hook.ROOMS[room] if (project / file).exists()})
    if os.environ.get("SOAK"):
        run_its_tests(project)
    else:
        succeed(python("-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", cwd=project))
