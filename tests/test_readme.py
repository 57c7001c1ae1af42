"""What each project's README shows is so: the loop, the files, and the code that it tells a person to write."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from baking import TASKS, Bakery, files_of, python, succeed

Block = tuple[str, str]


def blocks(readme: Path) -> list[Block]:
    """Return the fenced blocks of a README: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def examples(readme: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield the files that a README shows, each named by its first line: path, whether it is added to, and text."""
    for _, text in blocks(readme):
        first, _, rest = text.partition("\n")
        if match := re.fullmatch(r"# (added to )?([\w/]+\.(?:py|yaml))", first):
            yield match[2], bool(match[1]), rest


@pytest.fixture(scope="module", params=TASKS)
def baked(request: pytest.FixtureRequest, bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a full project of each task. Tests only read it."""
    return bakery.bake(tmp_path_factory.mktemp("baked"), task=request.param)


@pytest.fixture(scope="module")
def extended(baked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project to which a person has added all that the README shows."""
    project = Path(shutil.copytree(baked, tmp_path_factory.mktemp("extended") / "project"))
    shown = list(examples(project / "README.md"))
    assert len(shown) >= 12
    for name, added, text in shown:
        file = project / name
        assert file.exists() == added, f"{name}: only one that is added to is there before"
        file.write_text((file.read_text(encoding="utf-8") + "\n\n" if added else "") + text, encoding="utf-8")
    return project


def test_the_loop_is_quoted_as_it_stands(baked: Path) -> None:
    shown = next(text for _, text in blocks(baked / "README.md") if text.startswith("def train_step"))
    code = (baked / "trainer" / "trainer.py").read_text(encoding="utf-8")
    method = re.search(r"    (def train_step.*?\n)        \"\"\".*?\"\"\"\n(.*?\n)\n", code, re.DOTALL)
    assert method is not None
    assert shown.splitlines() == [method[1].rstrip(), *(line[4:] for line in method[2].splitlines())]


def test_the_table_of_files_names_those_that_are_there(baked: Path) -> None:
    tables = [text for _, text in blocks(baked / "README.md") if text.startswith(("config.json", "data_loaders/\n"))]
    shown, folder = set(), ""
    for line in "".join(tables).splitlines():
        nested = line.startswith(" ")
        names = line.strip().split("   ")[0].split()
        if not nested:
            folder = names[0]
        shown |= {folder + name if nested else name for name in names if name.endswith((".py", ".json"))}
    there = files_of(baked)
    assert shown <= there
    for name in ("data_loaders", "model", "trainer"):
        of_folder = {file for file in there if file.startswith(f"{name}/") and not file.endswith("__init__.py")}
        assert of_folder <= shown


# Scripts are run in one process, for to import torch takes longer than all the rest.
RUN = """
import contextlib, io, json, runpy, sys

said = []
for words in json.loads(sys.argv[1]):
    sys.argv = words
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            assert not end.code, (words, output.getvalue())
    said.append(output.getvalue())
print(json.dumps(said))
"""


def run_scripts(commands: list[list[str]], project: Path) -> list[str]:
    """Run scripts of a project, one after the other, and return what each has printed."""
    said: list[str] = json.loads(succeed(python("-c", RUN, json.dumps(commands), cwd=project)))
    return said


def test_every_command_of_the_readme_knows_its_options_and_runs(baked: Path) -> None:
    scripts = sorted(path.name for path in baked.glob("*.py"))
    usage = dict(zip(scripts, run_scripts([[name, "--help"] for name in scripts], baked), strict=True))
    name_of_runs = re.search(r'"name": "(\w+)"', (baked / "config.json").read_text(encoding="utf-8"))
    assert name_of_runs is not None
    for _, text in blocks(baked / "README.md"):
        for name, words in re.findall(r"^\$ python (\w+\.py)(.*)", text, re.MULTILINE):
            for option in re.findall(r" (--?\w[\w-]*)", words.split("  #")[0]):
                assert option in usage[name]
        # A folder with a time in its name is the run that the README tells of.
        assert set(re.findall(r"saved/(\w+)/\d{8}-", text)) <= {name_of_runs[1]}


def test_the_examples_pass_lint(extended: Path) -> None:
    succeed(python("-m", "ruff", "check", "--no-cache", ".", cwd=extended))
    succeed(python("-m", "ruff", "format", "--no-cache", "--check", ".", cwd=extended))


def test_the_examples_work(extended: Path, tmp_path: Path) -> None:
    """Every script that prepares data, and then every config that the README shows, for an epoch."""
    project = Path(shutil.copytree(extended, tmp_path / "project"))
    readme = project / "README.md"
    shown = [file for file, _, _ in examples(readme)]
    commands = [[file] for file in shown if file.startswith("prepare")]
    short = ("trainer.epochs=1", "trainer.device=cpu", "loggers={plots: false, report: false}")
    prose = "ProseLoaders" in (project / "config.json").read_text(encoding="utf-8")
    less = ("data_loader.args.files=[README.md]",) if prose else ()
    runs = [("trainer.type=gradient_noise.GradientNoiseTrainer", "name=gradient_noise", "lr_scheduler=null", *less)]
    for config in [file for file in shown if file.endswith(".yaml")]:
        own = config == "configs/own.yaml"  # what it is about is its schedule
        runs.append(("-c", config, "lr_scheduler.args={warmup: 2, total: 20}" if own else "lr_scheduler=null"))
    assert len(runs) >= 3
    run_scripts(commands + [["train.py", "-c", "config.json", *words, *short] for words in runs], project)
    assert (project / "saved" / "own" / "results.csv").read_text(encoding="utf-8").count("\n") == 1
    assert list(project.glob("saved/mapped/*/checkpoints/best.pth"))
    best = str(next(project.glob("saved/gradient_noise/*/checkpoints/best.pth")))
    said = re.findall(r"^\$ python predict\.py \S+(.*)\n(.*\n)", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(said) == ("predict.py" in shown)
    for words, answer in said:
        assert succeed(python("predict.py", best, *words.split(), cwd=project)) == answer
