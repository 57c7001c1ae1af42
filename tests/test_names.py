"""Bad answers are refused in one line and leave nothing behind; good names are taken as they are."""

from __future__ import annotations

import copy
import string
from pathlib import Path

import pytest
from baking import QUESTIONS, SOURCE, Bakery, load_hook, read_toml, typing
from cookiecutter.exceptions import FailedHookException
from cookiecutter.prompt import prompt_for_config
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

hook = load_hook("pre_gen_project")

GOOD = ["a", "7", "digits-classifier", "My_Net.v2", "com", "com10", "console", "torchy", "x" * 64]
BAD = [
    *("", ".", "..", "...", "-x", "-rf", "--help", "_x", ".git", "x-", "x_", "x.", " x", "x ", "x\n", "\t"),
    *("a/b", "a/b/c", "/a", "../x", "a/../../x", "a\\b", "..\\x", "C:x", "~", "~x", "$HOME", "%TEMP%"),
    *("CON", "con", "nul.txt", "Aux.tar.gz", "com1", "LPT9.x", "prn", "com0", "con ", "CONIN$"),
    *(
        "a b",
        "a:b",
        "a*b",
        "a?b",
        'a"b',
        "a'b",
        "a<b",
        "a>b",
        "a|b",
        "a;b",
        "a&b",
        "a+b",
        "a@b",
        "a[b]",
        "a,b",
    ),
    *(
        "é",
        "数字",
        "x\u0301",
        "a\u200bb",
        "\u202ex",
        "\uff11",
        "\u017f",
        "\u212a",
        "😀",
        "a\0b",
        "a\x1bb",
        "\udc80",
    ),
    *("{{ 7*7 }}", "{% x %}", "'''", "x" * 65, "x" * 300, "x" * 5000, "x/" * 200 + "x"),
    *(
        "torch",
        "Torch",
        "numpy",
        "PyYAML",
        "scikit-learn",
        "scikit_learn",
        "scikit..learn",
        "pytest",
        "types_tqdm",
    ),
]


def answers(**given: str) -> dict[str, str]:
    """Ask cookiecutter's own code for all variables, with these answers typed."""
    with typing(given):
        return dict(prompt_for_config({"cookiecutter": copy.deepcopy(QUESTIONS)}))


@pytest.mark.parametrize("name", GOOD)
def test_good_names_are_accepted(name: str) -> None:
    assert hook.problem_with_name(name) is None
    assert answers(project_name=name)["project_name"] == name


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_bad_names_are_refused_in_one_printable_line(name: str) -> None:
    line = hook.refusal(name, "text", "text")
    assert line
    assert line.startswith("Refused: project_name")
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < 250


NAMES = st.text() | st.text(string.ascii_letters + string.digits + "-_.", max_size=70) | st.sampled_from(BAD)


@given(name=NAMES)
def test_every_accepted_name_is_a_valid_name_and_folder(name: str) -> None:
    if hook.problem_with_name(name) is None:
        Requirement(name)
        assert not name.endswith((".", " "))
        assert Path(name).name == name
        assert name.isascii()


@given(name=NAMES)
def test_only_a_name_that_is_refused_is_replaced_before_a_folder_is_made(name: str) -> None:
    given = answers(project_name=name)
    assert given["__typed_name"] == name
    if hook.problem_with_name(name) is None:
        assert given["project_name"] == name
    elif given["project_name"] != "refused-project-name":
        # It is refused too, but a folder of this name does no harm: it is a plain name on every system.
        folder = given["project_name"]
        assert set(folder) <= set(string.ascii_letters + string.digits + "-_.")
        assert folder.strip(".")
        assert len(folder) <= 64
        assert folder.split(".")[0].lower() not in hook.DEVICES


def test_the_names_of_all_dependencies_are_refused() -> None:
    project = read_toml(SOURCE / "pyproject.toml")
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        needed += extra
    for requirement in needed:
        name = canonicalize_name(Requirement(requirement).name)
        assert hook.problem_with_name(name), f"{name} is missing in the hook's DEPENDENCIES"


@pytest.mark.parametrize("name", [name for name in BAD if name not in {"a\0b", "\udc80"}], ids=ascii)
def test_a_refused_name_leaves_nothing_behind(
    bakery: Bakery, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "output"
    output.mkdir(parents=True)
    with pytest.raises(FailedHookException):
        bakery.bake(output, project_name=name)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "deep", output]
    assert capfd.readouterr().err == hook.refusal(name, "text", "text") + "\n"


@pytest.mark.parametrize(
    "name", ["a/b", "..", "-rf", "nul.txt", "torch", "x" * 300, "{{ 7*7 }}", "a\0b", "é"], ids=ascii
)
def test_the_real_command_says_one_line_and_exits_with_1(bakery: Bakery, name: str, tmp_path: Path) -> None:
    result = bakery.type_answers(tmp_path, project_name=name)
    assert result.returncode == 1
    assert result.stderr == hook.refusal(name, "text", "text") + "\n"
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_harms_no_folder_that_was_there(bakery: Bakery, tmp_path: Path) -> None:
    for folder in ("refused-project-name", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "precious").touch()
    for name in ("a/b", "a"):
        assert bakery.type_answers(tmp_path, project_name=name).returncode == 1
    assert (tmp_path / "refused-project-name" / "precious").exists()
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "precious"]


@pytest.mark.parametrize("text", ["a\nb", "\r", "tab\t", "bell\a", "\x7f", "\x85", "\u2028", "\udc80"], ids=ascii)
@pytest.mark.parametrize("question", ["description", "author_name"])
def test_texts_of_more_than_one_line_of_text_are_refused(question: str, text: str) -> None:
    line = hook.refusal("name", **{"description": "text", "author_name": "text", question: text})
    assert line
    assert line.startswith(f"Refused: {question} ")
    assert line.isprintable()
