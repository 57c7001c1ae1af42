"""From config files and words of the command line to one checked config.

Precedence, lowest first: the defaults in utils/config.py, the files in the order given, the words.
"""

import difflib
import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from utils.config import Config
from utils.config_checks import all_problems
from utils.config_layers import COMMAND_LINE, Layer, Place, word_layer
from utils.config_problems import Problem, dotted
from utils.config_syntax import parse
from utils.config_yaml import BadTextError
from utils.errors import ConfigError

SUFFIXES = (".json", ".yaml", ".yml")
MAX_BYTES = 128 * 1024


def load_config(files: Sequence[Path], words: Sequence[str] = ()) -> Config:
    """Read a config: later files laid over earlier ones, then the words `key.path=value`.

    Raises ConfigError with everything that is wrong, each problem with its place.
    """
    return _checked(*read_layers(files, words))


def read_layers(files: Sequence[Path], words: Sequence[str]) -> tuple[Layer, list[str]]:
    """Lay files and words over one another, unchecked; with what is wrong in the form of the words.

    Raises ConfigError if a file cannot be read.
    """
    layers, problems = [], []
    for file in files:
        try:
            layers.append(read_file(file))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return _merge(layers, words)


def config_from_dict(data: dict[str, Any], words: Sequence[str], source: str) -> Config:
    """Take a config that was stored as plain values, in a checkpoint say, and lay words over it.

    `source` names the origin in messages. Raises ConfigError.
    """
    try:
        plain, _ = parse(json.dumps(data), ".json")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError([f"{source}: the config in it cannot be read: {error}"]) from error
    # What was stored was tried out when it was new; building an optimizer again would cost test.py a second.
    return _checked(*_merge([Layer(plain, {(): Place(source)})], words), trial=bool(words))


def read_file(path: Path) -> Layer:
    """Read one JSON or YAML file. Raises ConfigError with one problem if it is no mapping."""
    try:
        data, lines = parse(_text(path), path.suffix.lower())
    except BadTextError as error:
        raise ConfigError([f"{Place(str(path), error.line or 0)}: {error}"]) from None
    places = {key: Place(str(path), line) for key, line in lines.items()}
    return Layer(data, {(): Place(str(path))} | places)


def _text(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise BadTextError(f"is not a config file; its name should end in {', '.join(SUFFIXES)}")
    try:
        if path.is_dir():
            raise BadTextError("is a folder, not a file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise BadTextError(f"is too large for a config, more than {MAX_BYTES // 1024} KiB")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise BadTextError("does not exist" + _nearest_file(path)) from None
    except UnicodeDecodeError as error:
        raise BadTextError(f"is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise BadTextError(f"cannot be read: {error.strerror}") from None


def _nearest_file(path: Path) -> str:
    names = [file.name for file in path.parent.glob("*") if file.suffix in SUFFIXES]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean `{path.parent / close[0]}`?" if close else ""


def _merge(layers: list[Layer], words: Sequence[str]) -> tuple[Layer, list[str]]:
    problems = []
    spoken = Layer({}, {})
    for word in words:
        try:
            spoken = spoken.under(word_layer(word))
        except BadTextError as error:
            problems.append(f"{COMMAND_LINE}: `{word}`: {error}")
    # The words are one layer, so that their order does not matter.
    return reduce(Layer.under, [*layers, spoken], Layer({}, {})), problems


def located(layer: Layer, problems: list[Problem]) -> list[str]:
    """Write problems with the places where their keys were set, in the order of the files."""
    found = [(layer.place(path), dotted(path), text) for path, text in problems]
    return [f"{place}: {key}: {text}" for place, key, text in sorted(found)]


def _checked(merged: Layer, problems: list[str], *, trial: bool = True) -> Config:
    """Make a config of merged layers. Raises ConfigError with `problems` and all that is wrong in the values."""
    problems = problems + located(merged, all_problems(merged.data, trial))
    if problems:
        raise ConfigError(problems)
    return Config.model_validate(merged.data)
