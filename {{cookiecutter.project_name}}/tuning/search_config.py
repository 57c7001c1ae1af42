"""The section `search` of a config: what is varied, and how; checked like everything else in a config."""

import json
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from tuning.values import words_for
from utils.config import Config, Section
from utils.config_checks import all_problems
from utils.config_files import checked, located, read_layers
from utils.config_layers import Layer, word_layer
from utils.config_problems import Problem, dotted, nearest, shown, translate
from utils.errors import ConfigError

# What a key of the config may be drawn from. The bounds of a range can both be drawn.
RANGES = ("uniform", "log_uniform", "int", "log_int")
KINDS = ("choice", *RANGES)


class Search(Section):
    """What is varied, how values are chosen, and when a trial is given up."""

    algorithm: Literal["random", "grid", "optuna"] = Field(
        default="optuna",
        description="How values are chosen: at random, all of a grid, or from what went well so far (Optuna's TPE).",
    )
    trials: PositiveInt | None = Field(
        default=None, description="How many trainings; null means 20, and with a grid all combinations."
    )
    early_stopping: Literal["asha"] | None = Field(
        default="asha", description="asha ends trials that fall behind the others at the same epoch; null ends none."
    )
    min_epochs: PositiveInt = Field(default=3, description="Epochs that every trial gets before it may be ended.")
    cpus_per_trial: PositiveInt = Field(
        default=1, description="CPU cores for each trial; as many trials run at a time as the machine has cores for."
    )
    gpus_per_trial: float | None = Field(
        default=None, ge=0, description="GPUs for each trial, also 0.5; null means one where there are any."
    )
    space: dict[str, dict[str, list[Any]]] = Field(
        min_length=1,
        description="Key paths of the config, each with what its value is drawn from: "
        "choice: [a, b, c], uniform: [low, high], log_uniform, int or log_int.",
    )


class SearchFile(Section):
    """The part of a config file that is about the search."""

    search: Search = Field(description="What is varied, and how.")


def load_search(files: Sequence[Path], words: Sequence[str] = ()) -> tuple[Config, Search]:
    """Read files and words as for a training, with a section `search` besides.

    Raises:
        ConfigError: with everything that is wrong, in the config or in what may be drawn from the space.
    """
    merged, problems = read_layers(files, words)
    data = {"search": merged.data["search"]} if "search" in merged.data else {}
    base = Layer({key: value for key, value in merged.data.items() if key != "search"}, merged.places)
    found = _problems(data)
    problems += located(merged, found)
    config = checked(base, problems)  # raises for these problems and its own
    search = Search.model_validate(data["search"])
    found = list(_drawn_problems(config, search, base))
    if config.trainer.monitor is None:
        found.append(Problem(("trainer", "monitor"), "found null, but a search needs a metric to compare trials by"))
    if found:
        raise ConfigError(located(merged, found))
    return config, search


def _problems(data: dict[str, Any]) -> list[Problem]:
    """Find what is wrong in the section itself."""
    problems = []
    try:
        SearchFile.model_validate(data)
    except ValidationError as error:
        problems = translate(error, data, SearchFile)
    section = data.get("search")
    if not isinstance(section, dict):
        return problems
    space = section.get("space")
    for key, kinds in space.items() if isinstance(space, dict) else ():
        if isinstance(kinds, dict) and all(isinstance(values, list) for values in kinds.values()):
            problems += _space_problems(key, kinds, grid=section.get("algorithm") == "grid")
    if section.get("algorithm") == "grid" and section.get("trials") is not None:
        problems.append(Problem(("search", "trials"), "cannot be set: a grid tries all combinations"))
    return problems


def _space_problems(key: str, space: dict[str, list[Any]], grid: bool) -> Iterator[Problem]:
    path = ("search", "space", key)
    if len(space) != 1 or (kind := next(iter(space))) not in KINDS:
        hint = nearest(next(iter(space), ""), KINDS)
        yield Problem(path, f"found {shown(space)}, should be one of {', '.join(KINDS)}, with a list{hint}")
        return
    values = space[kind]
    if kind == "choice":
        if len({json.dumps(value) for value in values}) < max(1, len(values)) or not values:
            yield Problem((*path, kind), f"found {shown(values)}, should be a list of different values")
        return
    if grid:
        yield Problem((*path, kind), "cannot be used in a grid, which needs `choice` and a list of all values")
    numbers = int if kind in ("int", "log_int") else (int, float)
    if len(values) != 2 or not all(isinstance(v, numbers) and not isinstance(v, bool) for v in values):
        what = "whole numbers" if numbers is int else "numbers"
        yield Problem((*path, kind), f"found {shown(values)}, should be two {what}, the lowest and the highest")
    elif values[0] >= values[1]:
        yield Problem((*path, kind), f"found {shown(values)}, the first should be the lowest and smaller")
    elif kind.startswith("log") and values[0] <= 0:
        yield Problem((*path, kind), f"found {shown(values)}, on a logarithmic scale both should be larger than 0")


def _drawn_problems(config: Config, search: Search, base: Layer) -> Iterator[Problem]:
    """Find out whether what will be drawn makes sound configs: first values all together, then the others in turn.

    What several values do to each other is seen where the trial runs: it fails, and says why.
    """
    candidates = {key: next(iter(space.values())) for key, space in search.space.items()}
    first = {key: values[0] for key, values in candidates.items()}
    known = set(_problems_with(base, first))
    wrong = set()
    for path, text in sorted(known):
        name = dotted(path)
        owners = [key for key in candidates if name == key or name.startswith(f"{key}.")] or [*candidates]
        wrong.update(owners)
        for key in owners:
            yield _drawn_problem(key, first[key], name, text)
    for key in candidates.keys() - wrong:
        for value in candidates[key][1:]:
            for path, text in _problems_with(base, first | {key: value}):
                if (path, text) not in known:
                    yield _drawn_problem(key, value, dotted(path), text)


def _drawn_problem(key: str, value: Any, name: str, text: str) -> Problem:
    about = "" if name == key else f"with {shown(value)}: {name}: "
    return Problem(("search", "space", key), about + text)


def _problems_with(base: Layer, values: dict[str, Any]) -> list[Problem]:
    spoken = reduce(Layer.under, map(word_layer, words_for(values)), Layer({}, {}))
    return all_problems(base.under(spoken).data)
