"""The keys of a config for people and editors: `python -m utils.config_help` writes config.schema.json."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from utils.config import Config

SCHEMA_FILE = Path(__file__).parents[1] / "config.schema.json"


def schema() -> dict[str, Any]:
    """Return the JSON schema of a config, from which an editor completes and explains keys."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def describe(whole: dict[str, Any] | None = None) -> str:
    """Write down every key that a config may hold: type, default and description.

    `whole` is the JSON schema to read them from; None stands for this project's own.
    """
    whole = whole or schema()
    return "\n".join(_describe(whole, whole["$defs"], ""))


def _describe(section: dict[str, Any], sections: dict[str, Any], above: str) -> list[str]:
    lines = []
    for key, field in section["properties"].items():
        required = key in section.get("required", [])
        need = "required" if required else f"default {json.dumps(field['default'])}"
        lines.append(f"{above}{key}: {_type(field)}, {need}")
        lines += textwrap.wrap(field["description"], 100, initial_indent="    ", subsequent_indent="    ")
        for name in re.findall(r"#/\$defs/(\w+)", json.dumps(field)):
            item = "0." if field.get("type") == "array" else ""
            lines += _describe(sections[name], sections, f"{above}{key}.{item}")
    return lines


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if "enum" in field:
        return " or ".join(map(json.dumps, field["enum"]))
    signs = {"minimum": ">=", "exclusiveMinimum": ">"}
    limits = [f"{sign} {field[name]:g}" for name, sign in signs.items() if name in field]
    return " ".join([field.get("type", "object"), *limits])


if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")
