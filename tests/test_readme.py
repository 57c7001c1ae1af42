"""What the project's README shows is so: the loop, the files, and the code that it tells a person to write."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from baking import Bakery, files_of, python, succeed

Block = tuple[str, str]


def blocks(readme: Path) -> list[Block]:
    """Return the fenced blocks of a README: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def write_examples(project: Path) -> list[str]:
    """Write the files that the README shows, each named by its first line, and return their paths."""
    written = []
    for _, text in blocks(project / "README.md"):
        first, _, rest = text.partition("\n")
        if match := re.fullmatch(r"# (added to )?([\w/]+\.(?:py|yaml))", first):
            file = project / match[2]
            file.write_text((file.read_text(encoding="utf-8") + "\n\n" if match[1] else "") + rest, encoding="utf-8")
            written.append(match[2])
    return written


@pytest.fixture(scope="module")
def extended(bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project to which a person has added all that the README shows."""
    project = bakery.bake(tmp_path_factory.mktemp("extended"))
    assert len(write_examples(project)) >= 12
    return project


def test_the_loop_is_quoted_as_it_stands(full: Path) -> None:
    shown = next(text for _, text in blocks(full / "README.md") if text.startswith("def train_step"))
    code = (full / "trainer" / "trainer.py").read_text(encoding="utf-8")
    method = re.search(r"    (def train_step.*?\n)        \"\"\".*?\"\"\"\n(.*?\n)\n", code, re.DOTALL)
    assert method is not None
    assert shown.splitlines() == [method[1].rstrip(), *(line[4:] for line in method[2].splitlines())]


def test_the_table_of_files_names_those_that_are_there(full: Path) -> None:
    table = next(text for _, text in blocks(full / "README.md") if text.startswith("config.json"))
    shown, folder = set(), ""
    for line in table.splitlines():
        nested = line.startswith(" ")
        names = line.strip().split("   ")[0].split()
        if not nested:
            folder = names[0]
        shown |= {folder + name if nested else name for name in names if name.endswith((".py", ".json"))}
    there = files_of(full)
    assert shown <= there
    for name in ("data_loaders", "model", "trainer"):
        of_folder = {file for file in there if file.startswith(f"{name}/") and not file.endswith("__init__.py")}
        assert of_folder <= shown


def test_every_command_of_the_readme_knows_its_options(full: Path) -> None:
    usage = {name: succeed(python(name, "--help", cwd=full)) for name in ("train.py", "test.py", "tune.py")}
    for _, text in blocks(full / "README.md"):
        for name, words in re.findall(r"^\$ python (train\.py|test\.py|tune\.py)(.*)", text, re.MULTILINE):
            for option in re.findall(r" (--?\w[\w-]*)", words.split("  #")[0]):
                assert option in usage[name]


def test_the_examples_pass_lint(extended: Path) -> None:
    succeed(python("-m", "ruff", "check", "--no-cache", ".", cwd=extended))
    succeed(python("-m", "ruff", "format", "--no-cache", "--check", ".", cwd=extended))


def test_the_examples_work(extended: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(extended, project)
    succeed(python("prepare.py", cwd=project))
    short = ("trainer.epochs=1", "lr_scheduler=null")
    for words in (
        ("-c", "config.json", "trainer.type=mixup.MixupTrainer", "name=mixup", *short),
        ("-c", "config.json", "-c", "configs/cancer.yaml", *short),
        ("-c", "config.json", "-c", "configs/own.yaml", "trainer.epochs=1", "lr_scheduler.args={warmup: 2, total: 20}"),
    ):
        succeed(python("train.py", *words, cwd=project))
    assert (project / "saved" / "own" / "results.csv").read_text(encoding="utf-8").count("\n") == 1
    best = next(project.glob("saved/mixup/*/checkpoints/best.pth"))
    assert succeed(python("predict.py", str(best), cwd=project)) == "torch.Size([1, 10])\n"


def test_pictures_are_read_from_a_folder(extended: Path, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(100):
        file = tmp_path / "pictures" / str(number % 10) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), color=2 * number).save(file)
    data = f"{{type: image_folder.ImageFolderLoaders, args: {{folder: {tmp_path / 'pictures'}, num_workers: 2}}}}"
    words = (f"data_loader={data}", "trainer.epochs=1", "lr_scheduler=null", f"trainer.save_dir={tmp_path}")
    said = succeed(python("train.py", "-c", "config.json", *words, cwd=extended))
    assert "epoch 1/1" in said
    result = python("train.py", "-c", "config.json", *words, f"data_loader.args.folder={tmp_path}/no", cwd=extended)
    assert result.returncode == 2
    assert "there are no pictures" in result.stderr
