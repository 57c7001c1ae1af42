"""Copy the template without what running it in place, or an editor, has left in its folders.

Cookiecutter bakes whatever lies in the template folder: caches, runs, notes. Projects are therefore baked
from a copy of the files that git knows or would take in.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("cookiecutter.json", "hooks", "templates", "{{cookiecutter.project_name}}")

# For a copy of the repository that git knows nothing of, such as an unpacked archive.
DROPPINGS = {"__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", "saved"}


def template_files() -> list[str]:
    """Return the paths of the template's own files, relative to the repository, with forward slashes."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        files = (path for part in PARTS for path in (ROOT / part, *(ROOT / part).rglob("*")))
        names = {
            path.relative_to(ROOT).as_posix()
            for path in files
            if not DROPPINGS.intersection(path.relative_to(ROOT).parts)
        }
    else:
        names = set(listing.decode().split("\0")) - {""}
    # A file that was deleted but not yet committed is still listed.
    return sorted(name for name in names if (ROOT / name).is_file())


def clean_copy(target: Path) -> Path:
    """Copy the template's own files into a new folder and return it."""
    for name in template_files():
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, destination)
    return target
