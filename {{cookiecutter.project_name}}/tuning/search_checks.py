"""What is wrong in a search space: in the ranges themselves, and in the configs that would be drawn from it."""

import json
from collections.abc import Iterator, Sequence, Set
from functools import reduce
from typing import Any

from tuning.values import words_for
from utils.config_checks import all_problems
from utils.config_layers import Layer, word_layer
from utils.config_problems import Problem, dotted, nearest, shown

# What a value may be drawn from. Both ends of a range can be drawn.
RANGES = ("uniform", "log_uniform", "int", "log_int")
KINDS = ("choice", *RANGES)
# What trials are compared by must be the same for all of them.
FIXED = ("trainer", "trainer.monitor", "metrics")


def space_problems(search: Any) -> Iterator[Problem]:
    """Find wrong ranges in the section `search`, as far as it has the right form; the rest is reported already."""
    if not isinstance(search, dict):
        return
    grid = search.get("algorithm") == "grid"
    if grid and search.get("trials") is not None:
        yield Problem(("search", "trials"), "cannot be set: a grid tries all combinations")
    for key, entry in _entries(search).items():
        yield from _entry_problems(key, entry, grid)


def _entries(search: Any) -> dict[str, dict[str, list[Any]]]:
    """Return the entries of the space that have the right form."""
    space = search.get("space") if isinstance(search, dict) else None
    return {
        key: entry
        for key, entry in (space.items() if isinstance(space, dict) else ())
        if isinstance(entry, dict) and all(isinstance(values, list) for values in entry.values())
    }


def _entry_problems(key: str, entry: dict[str, list[Any]], grid: bool) -> Iterator[Problem]:
    path = ("search", "space", key)
    if "=" in key or "" in key.split("."):
        yield Problem(path, "should be a key path of the config, as in `optimizer.args.lr`")
    if key in FIXED:
        yield Problem(path, "cannot be varied: trials could not be compared")
    if len(entry) != 1 or (kind := next(iter(entry))) not in KINDS:
        hint = nearest(next(iter(entry), ""), KINDS)
        yield Problem(path, f"found {shown(entry)}, should be one of {', '.join(KINDS)}, with a list{hint}")
        return
    values = entry[kind]
    if kind == "choice":
        if not values or len({json.dumps(value) for value in values}) < len(values):
            yield Problem((*path, kind), f"found {shown(values)}, should be a list of different values")
        return
    if grid:
        yield Problem((*path, kind), "cannot be used in a grid, which needs `choice` and a list of all values")
    numbers = int if kind in ("int", "log_int") else (int, float)
    if len(values) != 2 or not all(isinstance(v, numbers) and not isinstance(v, bool) for v in values):
        what = "whole numbers" if numbers is int else "numbers"
        yield Problem((*path, kind), f"found {shown(values)}, should be two {what}, the lowest and the highest")
    elif not values[0] < values[1]:
        yield Problem((*path, kind), f"found {shown(values)}, the first should be the lowest and smaller")
    elif kind.startswith("log") and values[0] <= 0:
        yield Problem((*path, kind), f"found {shown(values)}, on a logarithmic scale both should be larger than 0")


def drawn_problems(base: Layer, search: Any, wrong: Set[Any], of_base: Sequence[Problem]) -> Iterator[Problem]:
    """Find out whether what will be drawn makes sound configs: first values all together, then the others in turn.

    What several values do to each other is seen where the trial runs: it fails, and says why.

    Args:
        base: the config without the section `search`.
        search: that section.
        wrong: keys of the space that have problems already.
        of_base: what is wrong without any drawn value.
    """
    candidates = {key: next(iter(entry.values())) for key, entry in _entries(search).items() if key not in wrong}
    first = {key: values[0] for key, values in candidates.items()}
    known = set(_problems_with(base, first))
    told = set()
    for path, text in sorted(known - set(of_base)):
        name = dotted(path)
        owners = [key for key in candidates if name == key or name.startswith(f"{key}.")] or [*candidates]
        told.update(owners)
        for key in owners:
            yield _drawn_problem(key, first[key], name, text)
    for key in candidates.keys() - told:
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
