"""YAML, read strictly: no tags that make objects, no key twice, no aliases or nesting gone wild."""

import json
import re
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 32
MAX_VALUES = 2_000


class BadTextError(ValueError):
    """A text that is no config at all; `line` is where (counted from 1), or None if that is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        """Say what the text is or has, as in "is empty", and where."""
        self.line = line
        super().__init__(message)


def parse_yaml(text: str) -> tuple[Any, dict[KeyPath, int]]:
    """Return the value of a YAML text (None if there is none) and the line of each key path in it.

    Raises BadTextError.
    """
    lines: dict[KeyPath, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, lines
        _walk(node, (), _line(node), lines)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"is not valid YAML: {error.problem or error.context}"
        raise BadTextError(message, mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise BadTextError(f"is not valid YAML: {str(error).splitlines()[0]}") from None
    except BadTextError:
        raise
    except (OverflowError, ValueError) as error:
        # PyYAML leaves it to Python to refuse an impossible escape, "\UFFFFFFFF".
        raise BadTextError(f"is not valid YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `1e-3` is a number; `2024-01-01`, `010` and `1:30` are text."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (the base class has it so)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None):
            raise BadTextError(f"has the tag {event.tag}, but tags are not allowed", _line(event))
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadTextError(f"is nested deeper than {MAX_DEPTH} levels", _line(event))
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_DECIMAL = r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
for _kind, _pattern, _first in [
    ("null", "~|null|Null|NULL|", "~nN"),
    ("bool", "true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("int", "[-+]?(0|[1-9][0-9]{0,99})", "-+0123456789"),
    ("float", rf"{_DECIMAL}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("merge", "<<", "<"),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])


def _walk(node: yaml.Node, path: KeyPath, line: int, lines: dict[KeyPath, int]) -> None:
    """Note the line of every key path, aliases expanded, while nothing has been made of the nodes yet."""
    lines[path] = line
    if len(path) > MAX_DEPTH:
        raise BadTextError("has an alias that contains itself, or aliases nested too deeply", line)
    if len(lines) > MAX_VALUES:
        raise BadTextError(f"has more than {MAX_VALUES} values", line)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), _line(item), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise BadTextError("has a key that is not text; put it in quotes", _line(key))
            if (*path, key.value) in lines:
                raise BadTextError(f"has the key {json.dumps(key.value)} twice in one mapping", _line(key))
            _walk(value, (*path, key.value), _line(key), lines)


def _line(marked: Any) -> int:
    return int(marked.start_mark.line) + 1
