"""Fixtures: the clean copy of the template, and the two projects that most tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from baking import Bakery, settings_file
from clean_copy import clean_copy
from hypothesis import settings

# The same examples every time: a red run is then due to a change, and can be repeated.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def bakery(tmp_path_factory: pytest.TempPathFactory) -> Bakery:
    """Return a bakery whose template is a clean copy of the repository's."""
    folder = tmp_path_factory.mktemp("bakery")
    return Bakery(clean_copy(folder / "template"), settings_file(folder))


@pytest.fixture(scope="session")
def full(bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with the default answers. Tests only read it."""
    return bakery.bake(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def minimal(bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project without rooms. Tests only read it."""
    return bakery.bake(tmp_path_factory.mktemp("minimal"), extras="minimal")
