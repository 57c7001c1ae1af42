"""From the text of a JSON or YAML file to plain values, and the line of every key."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from utils.config_yaml import MAX_DEPTH, MAX_VALUES, BadTextError, KeyPath, parse_yaml


def parse(text: str, suffix: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the mapping in a text and the line of each key path in it; `.json` means JSON, else YAML.

    Strict, unlike the parsers themselves: no key may stand twice in one mapping, and numbers must be finite
    and fit 64 bits. Raises BadTextError.
    """
    if not text.strip():
        raise BadTextError("is empty")
    value, lines = _parse_json(text) if suffix == ".json" else parse_yaml(text)
    if not isinstance(value, dict):
        raise BadTextError("should be a mapping of keys to values", 1)
    _refuse_odd_values(value, (), lines)
    return value, lines


def parse_value(text: str) -> tuple[Any, list[KeyPath]]:
    """Return the value of a `key=value` word, written as YAML, and the key paths in it; no text is null.

    Raises BadTextError.
    """
    value, lines = parse_yaml(text)
    _refuse_odd_values(value, (), lines)
    return value, [*lines]


def _parse_json(text: str) -> tuple[Any, dict[KeyPath, int]]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadTextError(f"is not valid JSON: {error.msg}, column {error.colno}", error.lineno) from None
    except RecursionError:
        raise BadTextError(f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise BadTextError("has a number of too many digits") from None
    return value, dict(_json_lines(text))


def _json_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Walk the tokens of a valid JSON text.

    The last part of `path` is an index in a list, a key in a mapping, or None where a key comes next.
    """
    path: list[Any] = []
    seen: set[KeyPath] = set()
    line = 1
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[^\s",:{}\[\]]+|[\n,{}\[\]]', text):
        if token == "\n":
            line += 1
        elif token in "]}":
            path.pop()
        elif token == ",":
            path[-1] = path[-1] + 1 if isinstance(path[-1], int) else None
        elif path and path[-1] is None:
            path[-1] = json.loads(token)
            if tuple(path) in seen:
                raise BadTextError(f"has the key {token} twice in one mapping", line)
            seen.add(tuple(path))
            yield tuple(path), line
        else:
            if path and isinstance(path[-1], int):
                yield tuple(path), line
            if token in "[{":
                path.append(0 if token == "[" else None)
            if len(path) > MAX_DEPTH:
                raise BadTextError(f"is nested deeper than {MAX_DEPTH} levels", line)
        if len(seen) > MAX_VALUES:
            raise BadTextError(f"has more than {MAX_VALUES} values", line)


def _refuse_odd_values(value: Any, path: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_odd_values(key, path, lines)
            _refuse_odd_values(item, (*path, key), lines)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_odd_values(item, (*path, index), lines)
    elif odd := _oddity(value):
        where = ".".join(map(str, path)) or "value"
        raise BadTextError(f"{where}: found {odd}", lines.get(path))


def _oddity(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, should be a finite number"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a whole number that does not fit 64 bits"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "text with half a surrogate pair, which no file can hold"
    return None
