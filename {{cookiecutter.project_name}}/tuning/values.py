"""The values that a trial is given, by key path of the config."""

import json
from typing import Any


def words_for(values: dict[str, Any]) -> list[str]:
    """Write values as the words `key.path=value` of a command line."""
    # Shorter paths first, so that `optimizer` does not overwrite `optimizer.args.lr`.
    return [f"{key}={json.dumps(values[key])}" for key in sorted(values, key=lambda key: key.count("."))]


def drawn(config: dict[str, Any]) -> dict[str, Any]:
    """Return what Ray has chosen: a choice may be anything and travels as JSON, the other kinds are numbers."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in config.items()}
