"""Refuse answers that could not become a project: one line on standard error, before a file is written.

Cookiecutter makes the project's folder before it calls this hook, so a name such as ``a/b`` would leave
folders behind and one of 300 letters would fail with a traceback. That is why `__name_guard` in
cookiecutter.json puts a harmless folder name in the place of a name that no folder should get; the name
as it was typed stands in `__typed_name`, and it alone is judged here.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata

LONGEST_NAME = 64

# What Windows keeps for devices; an extension changes nothing, `nul.txt` is the null device too.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}

# A project of the same name would stand in for the library when its dependencies are installed.
DEPENDENCIES = {
    "datasets",
    "jinja2",
    "matplotlib",
    "mypy",
    "numpy",
    "optuna",
    "pillow",
    "pip",
    "pydantic",
    "pytest",
    "pyyaml",
    "ray",
    "ruff",
    "safetensors",
    "scikit-learn",
    "setuptools",
    "tensorboard",
    "torch",
    "torchmetrics",
    "tqdm",
    "types-pyyaml",
    "types-tqdm",
    "wandb",
    "wheel",
}


def problem_with_name(name: str) -> str | None:
    """Say what is wrong with a project's name, or return None."""
    if not name:
        return "it is empty"
    if len(name) > LONGEST_NAME:
        return f"it has {len(name)} characters, and {LONGEST_NAME} are allowed"
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        near = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")
        rule = 'only the letters a-z and A-Z, digits, "-", "_" and "." are allowed, with a letter or digit at both ends'
        return f'{rule}, as in "{near}"' if near else rule
    if name.split(".")[0].lower() in DEVICES:
        return "Windows keeps it for a device"
    if re.sub(r"[-_.]+", "-", name).lower() in DEPENDENCIES:
        return "a library that the project needs has this name"
    return None


def problem_with_line(text: str) -> str | None:
    """Say why a text cannot stand as one line in the project's files, or return None."""
    for character in text:
        # Control characters, line and paragraph separators, bytes that were not text.
        if unicodedata.category(character) in {"Cc", "Zl", "Zp", "Cs"}:
            return f"it contains U+{ord(character):04X}, and one line of plain text is asked for"
    return None


def refusal(name: str, description: str, author_name: str) -> str | None:
    """Return the first reason to refuse these answers, as one printable line, or None."""
    problems = (
        ("project_name", name, problem_with_name(name)),
        ("description", description, problem_with_line(description)),
        ("author_name", author_name, problem_with_line(author_name)),
    )
    for question, answer, problem in problems:
        if problem:
            shown = answer if len(answer) <= LONGEST_NAME else answer[:LONGEST_NAME] + "..."
            return f"Refused: {question} {shown!a}: {problem}."
    return None


def main() -> int:
    """Judge the answers; the exit status tells cookiecutter whether to go on."""
    # The only lines with Jinja. `tojson` escapes the single quote, so no answer can end these strings;
    # between triple double quotes, one that begins or ends with a quote would.
    # fmt: off
    name = json.loads(r'''{{ cookiecutter.__typed_name | tojson }}''')
    description = json.loads(r'''{{ cookiecutter.description | tojson }}''')
    author_name = json.loads(r'''{{ cookiecutter.author_name | tojson }}''')
    # fmt: on
    reason = refusal(name, description, author_name)
    if reason:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
