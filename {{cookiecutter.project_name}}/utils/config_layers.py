"""Values laid over one another: files, and the `key.path=value` words of the command line.

Mappings are merged key by key; lists and all else are replaced. Where an upper layer names another `type`,
the `args` that belonged to the lower one are dropped. A number reaches into a list,
`metrics.0.type=accuracy`; the number after its last item adds one.
"""

import re
from typing import Any, NamedTuple

from utils.config_problems import existing
from utils.config_syntax import parse_value
from utils.config_yaml import BadTextError, KeyPath

COMMAND_LINE = "command line"
_INDEX = re.compile("[0-9]{1,4}")


class Place(NamedTuple):
    """Where a key was set: a file (or "command line") and its line, counted from 1; 0 if not known."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        """Write it as editors and compilers do, `config.json:12`."""
        return f"{self.source}:{self.line}" if self.line else self.source


class Layer(NamedTuple):
    """Values, and the place of each key path in them."""

    data: dict[str, Any]
    places: dict[KeyPath, Place]

    def under(self, upper: "Layer") -> "Layer":
        """Return this layer with another one laid over it."""
        return Layer(_merge(self.data, upper.data), self.places | upper.places)

    def place(self, path: KeyPath) -> Place:
        """Return where a key path was set, or else the nearest one above it."""
        path = existing(self.data, path)
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place("config"))


def word_layer(word: str) -> Layer:
    """Return a word `key.path=value` as a layer of its own. Raises BadTextError."""
    key, equals, text = word.partition("=")
    parts = key.split(".")
    if not equals or "" in parts:
        raise BadTextError("should be `key.path=value`, without spaces around `=`")
    value, inner = parse_value(text)
    for part in reversed(parts):
        value = {part: value}
    path = tuple(int(part) if _INDEX.fullmatch(part) else part for part in parts)
    return Layer(value, {(*path, *below): Place(COMMAND_LINE) for below in [(), *inner]})


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    if "type" in upper and upper["type"] != lower.get("type", upper["type"]):
        merged.pop("args", None)
    for key, value in upper.items():
        merged[key] = _merge_values(merged.get(key), value)
    return merged


def _merge_values(lower: Any, upper: Any) -> Any:
    if isinstance(lower, dict) and isinstance(upper, dict):
        return _merge(lower, upper)
    if isinstance(lower, list) and isinstance(upper, dict) and upper and all(map(_INDEX.fullmatch, upper)):
        return _merge_items(lower, {int(index): value for index, value in upper.items()})
    return upper


def _merge_items(lower: list[Any], upper: dict[int, Any]) -> Any:
    items = list(lower)
    for index in sorted(upper):
        if index < len(items):
            items[index] = _merge_values(items[index], upper[index])
        elif index == len(items):
            items.append(upper[index])
        else:
            return upper  # not a list, as the checks will say
    return items
