"""Mutants: every key of every shipped config is misspelt, moved, removed, mistyped and put out of range.

Every single mutant must be refused, with a message that names its key path. Before mutation each config is
filled up with the optional keys and with every argument that its types take, so that no key is left out.
"""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import yaml
from pydantic.fields import FieldInfo

PROJECT = Path(__file__).parents[1] / "{{cookiecutter.project_name}}"
sys.path.insert(0, str(PROJECT))  # the template folder is a working project

from utils import registry  # noqa: E402
from utils.config_files import load_config  # noqa: E402
from utils.config_problems import known_keys  # noqa: E402
from utils.errors import ConfigError  # noqa: E402

KeyPath = tuple[str | int, ...]
CONFIGS = sorted((PROJECT / "configs").glob("*.json"))
# What is laid over a config; the file of a search is not, and has tests of its own.
OVERLAYS = sorted(file for file in (PROJECT / "configs").glob("*.yaml") if file.stem != "search")

# Values for the keys that are null or empty in a shipped config.
EXAMPLES: dict[str, Any] = {
    "trainer.early_stop": 5,
    "trainer.clip_grad_norm": 1.0,
    "trainer.ema": 0.99,
    "trainer.save_every_steps": 100,
    "trainer.save_every_minutes": 10.0,
    "optimizer.groups": [{"params": ["head.*"], "lr": 0.1, "weight_decay": 0.5}],
    "lr_scheduler.args": {"T_max": 6},
    "freeze": ["features.*", "!features.0"],
    "unfreeze": [{"epoch": 2, "modules": ["features.*"], "lr": 0.1}],
    "init_weights": [{"type": "kaiming_normal_", "args": {"a": 0.1}, "params": ["head.*.weight"]}],
    "init_from": {"path": "saved/other", "rename": {"backbone.": "features."}, "skip": ["head.*"]},
    "loggers": {"tensorboard": True, "plots": {}},
}
# Arguments that may be null, and lists and mappings of text.
NULLABLE_ARGS = {"classes", "rare", "samples_per_class", "files", "stride", "ignore_index", "stream"}
TEXTS = {"freeze", "params", "modules", "skip", "rename", "features"}
# What is out of range for text. A number is put out of range by -1, and a share of something by 2 as well.
NOT_ALLOWED: dict[str, list[str]] = {
    "name": ["", "../up", "a/b", "x" * 61, "-x"],
    "type": [
        "",
        "os.system",
        "__import__",
        "nothing",
        "nothing.at_all",
        "conv_net.torch",
        "conv_net.Field",
        "trainer.UserError",
    ],
    "interval": ["batch"],
    "save_dir": ["", "a\nb"],
    "device": ["gpu", "cuda:x", "CUDA"],
    "freeze": ["", "a b"],
    "params": ["", "a b"],
    "modules": ["", "a b"],
    "skip": ["", "a b"],
    "path": [""],
    "monitor": ["val_loss", "best val_loss", "max val_nothing", "min os.system"],
}
ANY_NUMBER = {"a", "ignore_index"}
SHARES = {"ema", "label_smoothing", "dropout", "valid_fraction", "test_fraction", "betas"}


class Mutant(NamedTuple):
    """A config with one mistake, and the key paths of which the answer must name one."""

    what: str
    data: dict[str, Any]
    paths: tuple[KeyPath, ...]


def filled_up(file: Path) -> dict[str, Any]:
    """Return a shipped config with every optional key, and every argument that a config can give."""
    data = load_config([file]).model_dump(mode="json", by_alias=True)
    for key, value in EXAMPLES.items():
        *above, last = key.split(".")
        get(data, tuple(above))[last] = value
    for metric in data["metrics"]:
        metric["name"] = metric["name"] or metric["type"].rpartition(".")[2].lower()
    data["metrics"].append({"type": "top_k_accuracy", "name": "top_3", "args": {"k": 3}})
    components = [(key, data[key]) for key in ("data_loader", "model", "loss", "optimizer", "lr_scheduler")]
    components += [(key, each) for key in ("metrics", "init_weights") for each in data[key]]
    for section, component in components:
        target = registry.find(section, component["type"])
        for name, parameter in inspect.signature(target).parameters.items():
            given = name in registry.injected_names(section, target)
            if not given and parameter.default not in (None, parameter.empty):
                component["args"].setdefault(name, parameter.default)
    return dict(json.loads(json.dumps(data)))  # tuples become lists


def keys(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Walk every key path, sections before what is in them."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from keys(value, (*path, key))


def get(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def changed(data: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(data)
    get(result, path[:-1])[path[-1]] = value
    return result


def without(data: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    result = copy.deepcopy(data)
    del get(result, path[:-1])[path[-1]]
    return result


def named(data: dict[str, Any]) -> Iterator[tuple[str, KeyPath, Any]]:
    """Walk the keys that a config gives a meaning, which is all but the indices of lists."""
    for path in keys(data):
        if isinstance(path[-1], str) and path[-2:-1] != ("rename",):
            yield path[-1], path, get(data, path)


def misspelt(data: dict[str, Any]) -> Iterator[Mutant]:
    for key, path, value in named(data):
        for wrong in (f"{key}x", key[:-1], key[0] + key[2:], key.swapcase()):
            there = (*path[:-1], wrong)
            if wrong and wrong not in get(data, path[:-1]):
                yield Mutant(f"misspelt as {wrong!r}", changed(without(data, path), there, value), (there,))


def moved(data: dict[str, Any]) -> Iterator[Mutant]:
    mappings: list[KeyPath] = [()]
    mappings += [path for _, path, value in named(data) if isinstance(value, dict) and path[-1] != "rename"]
    for number, (key, path, value) in enumerate(named(data)):
        # To the top, one level up, and into three others.
        for target in {(), path[:-2], *(mappings[(number + step) % len(mappings)] for step in (1, 4, 8))}:
            there = (*target, key)
            fitting = isinstance(get(data, target), dict) and key not in get(data, target)
            if fitting and target[: len(path)] != path:
                if there == ("model", "args", "channels"):
                    continue  # both the images and the network have such an argument
                # A `type` is missed where it belongs, and then its `args`, and what is in them, cannot be judged.
                inside = key == "type" and target[: len(path)] == (*path[:-1], "args")
                paths = (there, target, path) if inside else (there,)
                yield Mutant(f"moved to {there}", without(changed(data, there, value), path), paths)


def removed(data: dict[str, Any]) -> Iterator[Mutant]:
    for _, path, _ in named(data):
        field = field_of(path)
        if field and field.is_required():
            yield Mutant("removed", without(data, path), (path,))


def field_of(path: KeyPath) -> FieldInfo | None:
    """Return the field of the config classes that a key path names; None for arguments and loggers."""
    return known_keys().get(tuple(part for part in path if isinstance(part, str)))


def mistyped(data: dict[str, Any]) -> Iterator[Mutant]:
    samples: list[Any] = [True, 3, 2.5, "text", ["text"], {"text": "text"}, None]
    for path in keys(data):
        for sample in samples:
            if not fits(get(data, path), sample, path):
                # In a collection it may be the odd one that is named: `betas.0` for `betas`.
                odd: list[str | int] = [0, "text"] if isinstance(sample, list | dict) else []
                paths = (path, *((*path, each) for each in odd))
                yield Mutant(f"mistyped as {sample!r}", changed(data, path, sample), paths)


def fits(value: Any, sample: Any, path: KeyPath) -> bool:
    """Say whether a sample is of a type that may stand where `value` stands."""
    if sample is None:
        field = field_of(path)
        return path[-1] in NULLABLE_ARGS or (field is not None and type(None) in get_args(field.annotation))
    if path[-2:] == ("source", "files") and isinstance(sample, list | dict):
        return True  # a pattern, several, or a mapping of splits to some
    if path[0] == "loggers" and len(path) == 2 and isinstance(sample, bool):
        return True
    if isinstance(value, float):
        return type(sample) in (float, int)
    return type(value) is type(sample) and (path[-1] in TEXTS or not isinstance(sample, list | dict))


def out_of_range(data: dict[str, Any]) -> Iterator[Mutant]:
    for path in keys(data):
        value = get(data, path)
        wrong: list[Any] = [2**63, 2**70] if path == ("seed",) else []
        if isinstance(value, str):
            wrong += NOT_ALLOWED.get(next(part for part in reversed(path) if isinstance(part, str)), [])
        elif isinstance(value, int | float) and not isinstance(value, bool) and path[-1] not in ANY_NUMBER:
            wrong += [-1, 2] if SHARES & set(path) else [-1]
        for each in wrong:
            # The list may answer for an item: `betas` for `betas.0`.
            paths = (path, path[:-1]) if isinstance(path[-1], int) else (path,)
            yield Mutant(f"out of range: {each!r}", changed(data, path, each), paths)


def complaint(files: list[Path]) -> str:
    """Return what is said of a config, or the empty string if it is accepted."""
    try:
        load_config(files)
    except ConfigError as error:
        return "\n".join(error.problems)
    return ""


def survivors(mutants: list[Mutant], folder: Path, below: list[Path]) -> list[str]:
    """Return the mutants that were accepted, or whose answer does not name the key path."""
    file = folder / ("mutant.yaml" if below else "mutant.json")
    result = []
    for what, data, paths in mutants:
        file.write_text(yaml.safe_dump(data) if below else json.dumps(data), encoding="utf-8")
        answer = complaint([*below, file])
        if not any(f" {'.'.join(map(str, path))}: " in answer for path in paths):
            result.append(f"{paths[0]} {what}: {answer or 'accepted'}")
    return result


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_mutant_of_a_config_is_refused(file: Path, tmp_path: Path) -> None:
    data = filled_up(file)
    (tmp_path / "whole.json").write_text(json.dumps(data), encoding="utf-8")
    assert complaint([tmp_path / "whole.json"]) == ""
    assert [path for path in keys(data) if get(data, path) in (None, [])] == []  # or else: add to EXAMPLES
    kinds = [misspelt(data), moved(data), removed(data), mistyped(data), out_of_range(data)]
    mutants = [mutant for kind in kinds for mutant in kind]
    print(f"{file.name}: {len(mutants)} mutants of {len(list(keys(data)))} keys")
    assert survivors(mutants, tmp_path, []) == []
    assert len(mutants) > 1000


@pytest.mark.parametrize("file", OVERLAYS, ids=lambda file: file.stem)
def test_every_mutant_of_an_overlay_is_refused(file: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    mutants = [*misspelt(data), *moved(data), *mistyped(data), *out_of_range(data)]
    print(f"{file.name}: {len(mutants)} mutants of {len(list(keys(data)))} keys")
    assert survivors(mutants, tmp_path, [CONFIGS[0]]) == []


def test_a_mutant_ends_the_command_with_exit_code_2_and_one_message(tmp_path: Path) -> None:
    data = filled_up(CONFIGS[0]) | {"loggers": {}}
    sample = [next(iter(kind(data))) for kind in (misspelt, removed, out_of_range)]

    def train(number: int) -> subprocess.CompletedProcess[str]:
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(sample[number].data), encoding="utf-8")
        command = [sys.executable, str(PROJECT / "train.py"), "-c", str(file)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    with ThreadPoolExecutor(2) as pool:
        for mutant, process in zip(sample, pool.map(train, range(len(sample))), strict=True):
            assert process.returncode == 2, process.stderr
            assert f" {'.'.join(map(str, mutant.paths[0]))}: " in process.stderr
            assert "Traceback" not in process.stderr
            assert process.stdout == ""
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * len(sample)
