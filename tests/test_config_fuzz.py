"""Whatever a file or a word holds: a config comes out, or a ConfigError, in bounded time and memory."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_name}}"
sys.path.insert(0, str(PROJECT))  # the template folder is a working project

from utils.config import Config  # noqa: E402
from utils.config_files import MAX_BYTES, config_from_dict, load_config  # noqa: E402
from utils.errors import ConfigError  # noqa: E402

CONFIG = next((PROJECT / "configs").glob("*.json"))
SHIPPED = json.loads(CONFIG.read_text(encoding="utf-8"))
MAX_SECONDS = 10  # of CPU time, and far more than is needed
MAX_MEMORY = 64 * 1024 * 1024  # bytes

fuzzed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# What has a meaning somewhere is more likely to hit upon a mistake of ours than noise.
NAMES = ["type", "args", "lr", "betas", "interval", "loggers", "<<", "$schema", "T_max", "milestones", "0", "7", ""]
TYPES = ["SGD", "OneCycleLR", "MultiStepLR", "CyclicLR", "conv_net.ConvNet", "MSELoss", "os.system", "..", "trainer."]
names = st.sampled_from([*NAMES, *SHIPPED, *SHIPPED["trainer"]]) | st.text(max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([*TYPES, *NAMES, "1e-3", ".inf", "2024-01-01", "max val_accuracy"])
    | st.text(max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
PATHS = [(), *[(key,) for key in SHIPPED], ("lr_scheduler", "args"), ("optimizer", "args")]
words = st.builds(
    lambda path, equals, text: ".".join(path) + equals + text,
    st.lists(names, max_size=4),
    st.sampled_from(["=", "=", "=", "", "=="]),
    values.map(str) | st.text(max_size=10) | st.sampled_from(["[", "{a: &a [*a]}", "!!python/name:os.system", "'"]),
)


def answer(files: list[Path], spoken: list[str]) -> Config | str:
    """Return the config, or what is said of it. Raises whatever else comes out."""
    try:
        config = load_config(files, spoken)
    except ConfigError as error:
        return "\n".join(error.problems)
    assert config_from_dict(config.model_dump(mode="json", by_alias=True), [], "a checkpoint") == config
    return config


@given(content=st.binary(max_size=300), suffix=st.sampled_from([".json", ".yaml"]))
@fuzzed
def test_bytes(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"config{suffix}"
    file.write_bytes(content)
    assert isinstance(answer([file], []), str)


@given(
    text=st.text(
        st.sampled_from([*'{}[]:,"-\n \t#&*!|>%@`~?<', "a", "1", "e", ".", "\\", "\ufeff", "\x85"]), max_size=80
    )
)
@fuzzed
def test_text_of_syntax(tmp_path: Path, text: str) -> None:
    for name in ("config.json", "config.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert isinstance(answer([tmp_path / name], []), str)


@given(
    value=values,
    path=st.sampled_from([(), *[(key,) for key in SHIPPED], ("lr_scheduler", "args")]),
    as_json=st.booleans(),
)
@fuzzed
def test_values_laid_over_a_config(tmp_path: Path, value: Any, path: tuple[str, ...], as_json: bool) -> None:
    for key in reversed(path):
        value = {key: value}
    file = tmp_path / f"config{'.json' if as_json else '.yaml'}"
    text = json.dumps(value) if as_json else yaml.safe_dump(value, allow_unicode=True)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    answer([CONFIG, file], [])


@given(spoken=st.lists(words, max_size=4))
@fuzzed
def test_words(spoken: list[str]) -> None:
    answer([CONFIG], spoken)


@given(data=values)
@fuzzed
def test_values_of_a_checkpoint(data: Any) -> None:
    with pytest.raises(ConfigError):
        config_from_dict(data, [], "a checkpoint")


PAIRS = list(zip("abcdefgh", "bcdefghi", strict=True))
BOMBS = {
    "aliases.yaml": "a: &a [x]\n" + "".join(f"{c}: &{c} [{f'*{b},' * 9}]\n" for b, c in PAIRS),
    "merges.yaml": "a: &a {x: 1}\n" + "".join(f"{c}: &{c} {{<<: [{f'*{b},' * 9}]}}\n" for b, c in PAIRS),
    "cycle.yaml": "a: &a {b: *a}\n",
    "deep.yaml": "a: " + "[" * 100_000,
    "deep_block.yaml": "- " * 50_000,
    "deep_keys.yaml": "? " * 50_000,
    "deep.json": '{"a":' * 20_000,
    "closed.json": '{"a":' + "[" * 50_000 + "]" * 50_000 + "}",
    "levels.json": '{"a":' + "[" * 600 + "]" * 600 + "}",
    "escape.yaml": 'a: "\\UFFFFFFFF"',
    "digits.json": '{"seed": ' + "9" * 100_000 + "}",
    "digits.yaml": "seed: " + "9" * 100_000,
    "exponent.json": '{"seed": 1e999999}',
    "exponent.yaml": "seed: 1e999999",
    "quotes.json": '{"a": "' + "\\" * 100_000,
    "spaces.yaml": "a:" + " " * 100_000 + "\t1",
    "wide.json": json.dumps({str(number): number for number in range(1_900)}),
    "wide.yaml": "".join(f"k{number}: 1\n" for number in range(1_900)),
    "large.json": json.dumps({"name": "x" * MAX_BYTES}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(BOMBS[name], encoding="utf-8")
    answer([CONFIG], [])  # so that no import is counted
    tracemalloc.start()
    start = time.process_time()
    assert isinstance(answer([tmp_path / name], []), str)
    assert time.process_time() - start < MAX_SECONDS
    assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    tracemalloc.stop()
