"""Whatever is typed comes out as typed, in every rendered file, and nothing of it is executed."""

from __future__ import annotations

from pathlib import Path

import pytest
from baking import LICENSES, Bakery, files_of, load_hook, parse_toml, read_toml, succeed
from clean_copy import ROOT
from hypothesis import assume, example, given
from hypothesis import strategies as st
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt

hook = load_hook("pre_gen_project")

HOSTILE = [
    # Strings and escapes of Python, JSON and TOML.
    *('"quoted"', "'single'", '"""', "'''", 'it\'s "both" \'\'\'and\'\'\' """more"""', '"', "'"),
    *("\\", "\\\\", "a\\", '\\"', r"\n\t\x00\u0041", '", version = "9', "'''); raise SystemExit(3) #"),
    # Jinja, and what looks like it.
    *("{{ 7*7 }}", "{{ 7*7", "}}", "{% for x in y %}", "{% endraw %}", "{# gone #}", "{", "}", "{}", "%}"),
    *(
        "{{ cookiecutter.nothing }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cookiecutter.update(project_name='x') }}",
    ),
    # Markdown and HTML.
    *(
        "# heading",
        "- item",
        "+ item",
        "* item",
        "1. item",
        "2) item",
        "> quote",
        "---",
        "===",
        "```",
        "    code",
    ),
    *(
        "*a* **b** _c_ __d__ ~~e~~ `f`",
        "[link](https://example.com)",
        "![image](x.png)",
        "[ref]: x",
        "|-|-|",
        "a | b",
    ),
    *(
        "<script>alert(1)</script>",
        "<!-- gone -->",
        "&amp; &lt; &#65;",
        "<https://example.com>",
        "$x^2$",
        "a\\*b",
        "!",
    ),
    # TOML and shells.
    *(
        "[tool.ruff]",
        "x = 1",
        "#comment",
        "$(touch pwned)",
        "`touch pwned`",
        "; touch pwned",
        "%PATH%",
        "!!python/none",
    ),
    # Text of all scripts and planes.
    *(
        "naïve café",
        "深度学习",
        "手書き数字",
        "שלום עולם",
        "مرحبا",
        "🙂",
        "👩\u200d💻 🏳️\u200d🌈",
        "\u202eevil\u202c",
    ),
    *("\U0010ffff", "\ufeffmark", "a\u00a0b\u3000c", "zero\u200bwidth", "\U0001d54f", "e\u0301", "x" * 2000),
]


def literal_texts(markdown: str) -> list[str]:
    """Return the text of each paragraph, heading and cell as a reader sees it; any markup splits it up."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    texts = []
    for token in tokens:
        texts += ["".join(child.content for child in token.children or [] if child.type == "text")]
    return texts


def written_as(macro: str, text: str) -> str:
    """Return what a macro of the template's makes of a text."""
    environment = Environment(loader=FileSystemLoader(ROOT / "templates"), autoescape=False)
    source = '{% from "escape.jinja" import ' + macro + " %}{{ " + macro + "(text) }}"
    return environment.from_string(source).render(text=text)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_typed_answers_come_out_as_typed(bakery: Bakery, text: str, tmp_path: Path) -> None:
    name = "refuge"
    result = bakery.type_answers(tmp_path, project_name=name, description=text, author_name=text)
    succeed(result)
    text = text.strip()  # by the prompt
    project = tmp_path / name
    metadata = read_toml(project / "pyproject.toml")["project"]
    assert (metadata["name"], metadata["description"], metadata["authors"]) == (name, text, [{"name": text}])
    license_lines = (project / "LICENSE").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("Copyright (c) ") and line.endswith(f" {text}") for line in license_lines)
    assert text in literal_texts((project / "README.md").read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert not [file for file in files_of(project) if "pwned" in file]


LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)
MARKED = st.text("\\`*_{}[]()<>#+-.!|~&$:;=\"'/ aZ019é😀", min_size=1)


@given(text=st.text())
@example("\0\x7f\x85\u2028\n")
def test_toml_keeps_every_text(text: str) -> None:
    assume(not any("\ud800" <= character <= "\udfff" for character in text))
    assert parse_toml(f'x = "{written_as("toml", text)}"') == {"x": text}


def test_toml_stays_valid_with_what_is_not_text() -> None:
    assert parse_toml(f'x = "{written_as("toml", chr(0xDC80))}"') == {"x": "?"}


@given(text=LINES | MARKED)
@example("1234567890. x")
def test_markdown_keeps_every_line(text: str) -> None:
    assume(hook.problem_with_line(text) is None and text.strip())
    escaped = written_as("markdown", text)
    # As a paragraph, a heading, a list item, a quotation, and a table's cell.
    for before, after in [("", ""), ("# ", ""), ("- ", ""), ("> ", ""), ("| a |\n|---|\n| ", " |")]:
        assert text.strip() in literal_texts(f"Above.\n\n{before}{escaped}{after}\n\nBelow.\n")


def test_an_ordinary_description_is_not_disfigured() -> None:
    for text in (
        "Tells cats from dogs, state-of-the-art (98.5 %).",
        "Zählt Äpfel: 1, 2, 3!",
        "A/B tests & more",
    ):
        assert written_as("markdown", text).replace("\\&", "&") == text


@pytest.mark.parametrize("choice", LICENSES)
def test_every_licence_is_written(bakery: Bakery, choice: str, tmp_path: Path) -> None:
    project = bakery.bake(tmp_path, license=choice, author_name="Ada Lovelace")
    text = (project / "LICENSE").read_text(encoding="utf-8")
    assert "Ada Lovelace" in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    expression = read_toml(project / "pyproject.toml")["project"]["license"]
    assert expression == ("LicenseRef-Proprietary" if choice == "Proprietary" else choice)


@pytest.mark.parametrize("question", ["description", "author_name"])
def test_control_characters_are_refused(bakery: Bakery, question: str, tmp_path: Path) -> None:
    result = bakery.type_answers(tmp_path, **{question: "a\x1b[31mb"})
    assert result.returncode == 1
    assert result.stderr.startswith(f"Refused: {question} 'a\\x1b[31mb': ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
