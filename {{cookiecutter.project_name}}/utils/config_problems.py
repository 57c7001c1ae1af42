"""What is wrong in a config, said so that a reader can mend it: where, what was found, what is allowed."""

import difflib
import functools
import json
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from utils.config import Config
from utils.config_yaml import KeyPath

# What pydantic asks for, and what that is in a config file.
IN_OUR_WORDS = {
    "valid dictionary|object": "a mapping",
    "valid integer": "a whole number",
    "valid number": "a number",
    "valid list|valid array": "a list",
    "valid boolean": "true or false",
    "valid string": "text",
}
# What pydantic says of an alternative that no file can hold (a tensor, a function), which helps no reader.
UNWRITABLE = ("is_instance_of", "needs_python_object", "callable_type")


class Problem(NamedTuple):
    """One thing to mend: its key path, and what was found and is allowed."""

    path: KeyPath
    text: str


def dotted(path: KeyPath) -> str:
    """Write a key path as one types it, `metrics.0.type`."""
    return ".".join(part if part.isprintable() else json.dumps(part) for part in map(str, path))


def shown(value: Any) -> str:
    """Write a value as it stands in JSON, cut short where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: str, names: Iterable[str], before: str = "", after: str = "") -> str:
    """Ask whether the closest of `names` was meant, to end a message with; empty if none is close.

    `before` and `after` are written around the name, but not compared.
    """
    close = closest(name, names)
    return f"; did you mean `{before}{close}{after}`?" if close else ""


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was most likely meant, if any is near.

    Best is the same but for capitals and underscores, then an abbreviation (`lr` and `learning_rate`), then similar
    letters, then one that is a part of the other (`plateau` and `ReduceLROnPlateau`), at its beginning if possible.
    """
    plain = {_plain(each): each for each in names}
    asked = _plain(name)
    short = [key for key, each in plain.items() if asked == _initials(each) or key == _initials(name)]
    similar = difflib.get_close_matches(asked, plain, n=1)
    begun = [key for key in plain if len(asked) > 1 and key.startswith(asked)]
    parts = [key for key in plain if min(len(asked), len(key)) > 3 and (key in asked or asked in key)]
    found = [asked] * (asked in plain) + short + similar + sorted(begun, key=len) + sorted(parts, key=len)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _initials(name: str) -> str:
    """Return the first letters of a name's words, where it has several."""
    letters = re.findall("(?<![A-Za-z])[a-z]|[A-Z]", name)
    return "".join(letters).lower() if len(letters) > 1 else name


def unknown(what: str, name: str, allowed: Iterable[str], more: str = "", unlisted: Iterable[str] = ()) -> str:
    """Say that a name does not exist, which names do (`more` stands for those `unlisted`), and which is nearest."""
    names = sorted(allowed)
    listed = ", ".join(names) or "none"
    return f"found {shown(name)}, no such {what}; allowed: {listed}{more}{nearest(name, [*unlisted, *names])}"


def structure_problems(data: dict[str, Any]) -> list[Problem]:
    """Find where keys and values do not fit the config classes."""
    try:
        Config.model_validate(data)
    except ValidationError as error:
        return translate(error, data)
    return []


def translate(error: ValidationError, data: Any, hint: Any = Config) -> list[Problem]:
    """Say in our words what pydantic found in `data`, which should be what the type hint says."""
    keys = known_keys() if hint is Config else dict(_fields(hint, ()))
    found: dict[KeyPath, list[Any]] = {}
    for details in error.errors():
        whole = details["type"] in ("missing", "extra_forbidden")
        path = details["loc"] if whole else existing(data, details["loc"])
        found.setdefault(path, []).append(details)
    return [Problem(path, _say(path, details, keys, data, hint)) for path, details in found.items()]


def existing(data: Any, path: KeyPath) -> KeyPath:
    """Return the part of a path that is in `data`: in a union, pydantic adds the name of the alternative."""
    for depth, part in enumerate(path):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return path[:depth]
    return path


@functools.cache
def known_keys() -> dict[KeyPath, FieldInfo]:
    """Return every key path that the config classes know, without indices of lists, and its field."""
    return dict(_fields(Config, ()))


def _fields(hint: Any, above: KeyPath) -> Iterator[tuple[KeyPath, FieldInfo]]:
    for section in _sections(hint):
        for name, field in section.model_fields.items():
            path = (*above, field.alias or name)
            yield path, field
            yield from _fields(field.annotation, path)


def _sections(hint: Any) -> list[type[BaseModel]]:
    """List the config classes that a type hint mentions."""
    if typing.get_origin(hint) is None and isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [section for part in typing.get_args(hint) for section in _sections(part)]


def _say(path: KeyPath, alternatives: list[Any], keys: dict[KeyPath, FieldInfo], data: Any, whole: Any) -> str:
    known = tuple(part for part in path if isinstance(part, str))
    about = f": {keys[known].description}" if known in keys else ""
    details = alternatives[0]
    if details["type"] == "missing":
        return "required, but missing" + about
    if details["type"] == "extra_forbidden":
        return _unknown_key(path, known, list(keys), data)
    if details["type"] == "string_pattern_mismatch" and about:
        return f"found {shown(details['input'])}, not allowed" + about
    allowed = " or ".join(each["msg"] for each in alternatives if each["type"] not in UNWRITABLE)
    # In the words of a config file, and to go on with after a comma.
    allowed = allowed.replace(" or Input should be ", " or ")
    for theirs, ours in IN_OUR_WORDS.items():
        allowed = re.sub(f"an? ({theirs})", ours, allowed)
    allowed = re.sub(r"^(Input|Value error,) | or instance of \w+", "", allowed)
    annotation = keys[known].annotation if known in keys else None if path else whole
    place = dotted(path) if known in keys else ""
    hint = _other_form(place, annotation, details["input"], allowed, (*known, "type") in keys)
    text = allowed[:1].lower() + allowed[1:] or "but a config cannot give this"
    return f"found {shown(details['input'])}, {text}{hint}"


def _other_form(place: str, hint: Any, found: Any, allowed: str, is_section: bool) -> str:
    """Ask whether another form of what was found was meant: null, a list of it, or the type of a section.

    Args:
        place: its key path; empty for an argument, whose name is not known here.
        hint: the type hint of what is allowed.
        found: what was found.
        allowed: the same in words.
        is_section: whether it is one with a `type`.
    """
    if not isinstance(found, str):
        return ""
    meant = None
    if found.lower() in ("none", "null", "nil"):
        empty = "null" if type(None) in typing.get_args(hint) else "[]" if "a list" in allowed else None
        meant = empty and (f"{place}={empty}" if place else empty)
    elif "a list" in allowed:
        items = ", ".join(f"{{type: {item}}}" if is_section else item for item in found.split(","))
        meant = f"{place}=[{items}]" if place else f"[{items}]"
    elif is_section:
        meant = f"{place}.type={found}"
    return f"; did you mean `{meant}`?" if meant else ""


def _unknown_key(path: KeyPath, known: KeyPath, keys: list[KeyPath], data: Any) -> str:
    """Say which keys there are; `known` is `path` without indices of lists, as in `keys`."""
    *above, key = known
    siblings = [str(each[-1]) for each in keys if each[:-1] == tuple(above)]
    sections = data if isinstance(data, dict) else {}
    arguments = {name: each.get("args") for name, each in sections.items() if isinstance(each, dict)}
    elsewhere: list[KeyPath] = [(name, "args", key) for name, args in arguments.items() if args and key in args]
    elsewhere += [each for each in keys if each[-1] == key]
    text = f"no such key; allowed: {', '.join(siblings)}"
    if elsewhere and "args" not in siblings:
        return f"{text}; did you mean `{dotted(elsewhere[0])}`?"
    if hint := nearest(str(key), siblings):
        return text + hint
    places = {each: name for name, args in arguments.items() for each in args or {}}
    if "args" not in siblings and (close := closest(str(key), places)):
        return f"{text}; did you mean `{dotted((places[close], 'args', close))}`?"
    return text + (f"; arguments of the type belong in `{dotted((*path[:-1], 'args'))}`" if "args" in siblings else "")
