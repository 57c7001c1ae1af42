"""Keep the files of the chosen task and, unless all are wanted, drop the rooms; then print the next steps.

The two tables below are the only place that says which files can go. A file may stand in both (a room
that only one task can use) and in several rows of one table (two tasks that share it): it stays if some
chosen task needs it, and no room that holds it is dropped. Every other file of the template is the core.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

# Task -> the files that only this task needs. `configs/<task>.json` becomes the project's `config.json`.
TASKS: dict[str, tuple[str, ...]] = {
    "image_classification": (
        "configs/finetune.yaml",
        "configs/from_scratch.yaml",
        "configs/hf_images.yaml",
        "configs/image_classification.json",
        "configs/pretrain.yaml",
        "configs/unbalanced.yaml",
        "configs/weighted.yaml",
        "data_loaders/digits.py",
        "data_loaders/hf_images.py",
        "data_loaders/image_files.py",
        "data_loaders/image_folder.py",
        "logger/image_figures.py",
        "model/conv_net.py",
        "tests/test_conv_net.py",
        "tests/test_digits.py",
        "tests/test_hf_images.py",
        "tests/test_image_figures.py",
        "tests/test_image_folder.py",
    ),
    "language_modeling": (
        "configs/hf_text.yaml",
        "configs/language_modeling.json",
        "configs/token_file.yaml",
        "data_loaders/byte_tokens.py",
        "data_loaders/hf_text.py",
        "data_loaders/prose.py",
        "data_loaders/token_file.py",
        "generate.py",
        "logger/text_figures.py",
        "model/transformer.py",
        "prepare.py",
        "tests/test_generate.py",
        "tests/test_hf_text.py",
        "tests/test_prose.py",
        "tests/test_text_figures.py",
        "tests/test_token_file.py",
        "tests/test_transformer.py",
        "utils/generation.py",
    ),
    "tabular_regression": (
        "configs/hf_table.yaml",
        "configs/linear_regression.yaml",
        "configs/tabular_regression.json",
        "data_loaders/csv_table.py",
        "data_loaders/hf_table.py",
        "data_loaders/tables.py",
        "logger/table_figures.py",
        "model/linear_regression.py",
        "model/mlp.py",
        "model/standardize.py",
        "predict_csv.py",
        "tests/test_csv_table.py",
        "tests/test_hf_table.py",
        "tests/test_linear_regression.py",
        "tests/test_mlp.py",
        "tests/test_predict_csv.py",
        "tests/test_table_figures.py",
        "tests/test_tables.py",
    ),
}

# Room -> the files that can be taken away together. `extras=minimal` takes all rooms away.
ROOMS: dict[str, tuple[str, ...]] = {
    "cluster": (
        "cluster/README.md",
        "cluster/plan.py",
        "cluster/slurm.sh",
        "tests/test_plan.py",
    ),
    "figures": (
        "logger/figures.py",
        "logger/image_figures.py",
        "logger/table_figures.py",
        "logger/text_figures.py",
        "tests/test_figures.py",
        "tests/test_image_figures.py",
        "tests/test_table_figures.py",
        "tests/test_text_figures.py",
    ),
    "find_lr": (
        "tests/test_find_lr.py",
        "trainer/find_lr.py",
    ),
    "hf_datasets": (
        "configs/hf_images.yaml",
        "configs/hf_table.yaml",
        "configs/hf_text.yaml",
        "data_loaders/hf_blocks.py",
        "data_loaders/hf_images.py",
        "data_loaders/hf_loaders.py",
        "data_loaders/hf_rows.py",
        "data_loaders/hf_source.py",
        "data_loaders/hf_split.py",
        "data_loaders/hf_stream.py",
        "data_loaders/hf_table.py",
        "data_loaders/hf_text.py",
        "tests/test_hf_dataset.py",
        "tests/test_hf_images.py",
        "tests/test_hf_table.py",
        "tests/test_hf_text.py",
    ),
    "layer_watch": (
        "logger/layer_watch.py",
        "replay.py",
        "tests/test_layer_watch.py",
        "utils/layer_probe.py",
        "utils/replaying.py",
    ),
    "overfit": (
        "tests/test_overfit.py",
        "trainer/overfit.py",
    ),
    "plots": (
        "logger/plots.py",
        "tests/test_plots.py",
    ),
    "profile": (
        "tests/test_profile.py",
        "trainer/profile.py",
    ),
    "ray": (
        "configs/search.yaml",
        "ray_train.py",
        "tests/test_tuning.py",
        "tune.py",
        "tuning/__init__.py",
        "tuning/cluster.py",
        "tuning/process.py",
        "tuning/ray_search.py",
        "tuning/ray_training.py",
        "tuning/records.py",
        "tuning/results.py",
        "tuning/search_checks.py",
        "tuning/search_config.py",
        "tuning/trial.py",
        "tuning/values.py",
    ),
    "report": (
        "logger/report.py",
        "report.py",
        "reporting/__init__.py",
        "reporting/charts.py",
        "reporting/comparison.html",
        "reporting/page.html",
        "reporting/page.py",
        "reporting/record.py",
        "tests/test_report.py",
    ),
    "sharding": (
        "merge.py",
        "tests/test_sharding.py",
        "trainer/shard_writer.py",
        "trainer/sharding.py",
        "trainer/shards.py",
    ),
    "token_file": (
        "configs/token_file.yaml",
        "data_loaders/token_file.py",
        "prepare.py",
        "tests/test_token_file.py",
    ),
    "wandb": (
        "logger/wandb.py",
        "tests/test_wandb.py",
    ),
}

# What tools leave in a template folder that is worked on; cookiecutter copies these folders along.
DROPPINGS = {"__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def dropped(task: str, extras: str) -> set[str]:
    """Return the files of the template that a project with these answers does without."""
    others = {file for name, files in TASKS.items() if name != task for file in files}
    rooms = {file for files in ROOMS.values() for file in files} if extras == "minimal" else set()
    return (others - set(TASKS[task])) | rooms


def delete(project: Path, files: set[str]) -> None:
    """Delete files from the project, and the folders that this leaves empty."""
    for file in sorted(files):
        path = project / file
        path.unlink()
        while path.parent != project and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()


def arrange(project: Path, task: str, extras: str) -> None:
    """Turn the template's files into those of one project."""
    for folder in [path for path in project.rglob("*") if path.name in DROPPINGS]:
        shutil.rmtree(folder, ignore_errors=True)
    delete(project, dropped(task, extras))
    config = project / "configs" / f"{task}.json"
    config.replace(project / "config.json")
    if not any(config.parent.iterdir()):
        config.parent.rmdir()


def way_to(project: Path) -> str:
    """Return what to write after `cd`, as seen from the folder where the person typed the command."""
    # Cookiecutter changed the working folder; a POSIX shell still says where it was, others do not.
    start = os.environ.get("PWD")
    inside = start and Path(start) in project.parents
    shown = os.path.relpath(project, start) if inside else str(project)
    return f'"{shown}"' if os.name == "nt" else shlex.quote(shown)


def next_steps(folder: str, *, windows: bool) -> str:
    """Return the commands that take a person from the new folder to a trained network."""
    python = "python" if windows else "python3"
    activate = r".venv\Scripts\activate" if windows else ". .venv/bin/activate"
    return f"""
The project is ready. Next:

    cd {folder}
    {python} -m venv .venv
    {activate}
    python -m pip install -e ".[dev]"
    python train.py -c config.json
    tensorboard --logdir saved
"""


def main() -> None:
    """Arrange the project in the working folder, which cookiecutter has just filled."""
    # The only lines with Jinja; both answers are choices, so they hold what cookiecutter.json says.
    # fmt: off
    task = json.loads(r'''{{ cookiecutter.task | tojson }}''')
    extras = json.loads(r'''{{ cookiecutter.extras | tojson }}''')
    # fmt: on
    project = Path.cwd()
    arrange(project, task, extras)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The folder's path may hold what the console cannot show; the project would be deleted for it.
        sys.stdout.reconfigure(errors="replace")
    print(next_steps(way_to(project), windows=os.name == "nt"))


if __name__ == "__main__":
    main()
