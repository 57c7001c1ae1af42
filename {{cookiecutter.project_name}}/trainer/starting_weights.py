"""The weights that a new run starts from: other random values, or a trained network's.

Starting from weights is not resuming: the run begins in epoch 0, with a fresh optimizer.
"""

import pickle
import zipfile
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import nn

from logger.console import log
from trainer.checkpoint import DamagedCheckpoint, explain_refusal, load_checkpoint, read_header
from trainer.run_folder import CHECKPOINTS, checkpoints_of, find_checkpoint
from utils.config import Config, InitFrom, InitWeights
from utils.errors import ConfigError, UserError
from utils.patterns import all_names, idle_patterns, selected
from utils.registry import find

# Wrappers of torch that put their name in front of every weight's.
_WRAPPERS = ("module.", "_orig_mod.")
# The keys under which programs keep the weights among other things.
_KEYS = ("model", "state_dict", "model_state_dict", "weights")


def set_starting_weights(config: Config, model: nn.Module) -> None:
    """Give a model the starting weights that the config asks for.

    Raises:
        UserError: a pattern or a function fits nothing, or no weight of the file does.
    """
    for number, entry in enumerate(config.init_weights):
        initialise(entry, model, f"init_weights.{number}")
    if config.init_from:
        load_starting_weights(config.init_from, model)


def initialise(entry: InitWeights, model: nn.Module, path: str) -> None:
    """Fill the parameters that the patterns select by a function of `torch.nn.init`.

    Raises:
        ConfigError: a pattern matches nothing, or the function cannot fill such a parameter.
    """
    parameters = dict(model.named_parameters())
    names = all_names(model.named_parameters(remove_duplicate=False))
    known = [name for every in names.values() for name in every]
    problems = [f"{path}.params.{number}: {text}" for number, text in idle_patterns(entry.params, known)]
    if problems:
        raise ConfigError(problems)
    function = find("init_weights", entry.type)
    for name, parameter in parameters.items():
        if any(selected(each, entry.params) for each in names[name]):
            try:
                with torch.no_grad():
                    function(parameter, **entry.args)
            except (ValueError, TypeError, RuntimeError) as error:
                raise ConfigError([f"{path}: {entry.type} cannot fill {name}: {error}"]) from error


def load_starting_weights(section: InitFrom, model: nn.Module) -> None:
    """Take over what fits by name and shape, and print what did and what did not.

    Raises:
        UserError: the file cannot be read, a pattern matches nothing, or nothing in the file fits.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    file, weights = read_weights(Path(section.path))
    renamed = _rename({_without_wrappers(name, own): value for name, value in weights.items()}, section.rename)
    if idle := idle_patterns(section.skip, {*own, *renamed}):
        raise ConfigError(f"init_from.skip.{number}: {text}" for number, text in idle)
    rows = {}
    for name in sorted({*own, *renamed}):
        if name not in renamed:
            rows[name] = ("missing", f"keeps its own start, {tuple(own[name].shape)}")
        elif selected(name, section.skip):
            rows[name] = ("skipped", "")
        elif name not in own:
            rows[name] = ("superfluous", "the model has no such part")
        elif renamed[name].shape != own[name].shape:
            rows[name] = ("mismatched", f"{tuple(renamed[name].shape)} in the file, here {tuple(own[name].shape)}")
        else:
            rows[name] = ("loaded", f"{tuple(own[name].shape)}")
    width = max(map(len, rows), default=0)
    table = [f"  {name:<{width}}  {state:<11}  {remark}".rstrip() for name, (state, remark) in rows.items()]
    counts = Counter(state for state, _ in rows.values())
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    if not counts["loaded"]:
        raise UserError("\n".join([f"init_from: nothing in {file} fits the model: {summary}", *table]))
    log.info("\n".join([f"starting from {file}: {summary}", *table]))
    fitting = {name: renamed[name] for name, (state, _) in rows.items() if state == "loaded"}
    model.load_state_dict(fitting, strict=False)


def read_weights(path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Read tensors by name from whatever the path names.

    Returns:
        The file, and its weights.

    Raises:
        UserError: there is no such file, or no weights in it.
    """
    path = _file_of(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in _KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    weights = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not weights:
        raise UserError(f"init_from.path: {path} holds no weights: its keys are {list(content)[:10]}")
    return path, weights


def _file_of(path: Path) -> Path:
    """Find the file: of a run's folder its best checkpoint, of a folder of runs that of the newest that has one."""
    if not path.exists():
        raise UserError(f"init_from.path: there is no {path}")
    if not path.is_dir():
        return path
    if (path / CHECKPOINTS).is_dir():
        runs = [path]
    else:
        runs = [folder.parent for folder in sorted(path.glob(f"*/{CHECKPOINTS}"), reverse=True)]
    for run in runs:
        best = run / CHECKPOINTS / "best.pth"
        if best.exists():
            return best
        if checkpoints_of(run):
            return find_checkpoint(run)[0]
    raise UserError(f"init_from.path: {path} is neither the folder of a run that has a checkpoint nor one of such runs")


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        read_header(path)
    except DamagedCheckpoint:
        pass  # not a checkpoint of this project: a file of another program, perhaps
    except OSError as error:
        raise UserError(f"init_from.path: {path} cannot be read: {error.strerror or error}") from None
    else:
        return load_checkpoint(path)
    if start != b"PK" and start[:1] != pickle.PROTO:
        raise UserError(f"init_from.path: {path} is neither a checkpoint nor a file of torch.save")
    if start == b"PK" and not zipfile.is_zipfile(path):
        raise UserError(f"init_from.path: {path} is damaged: its end is missing")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may hold anything, so reading it may raise anything
        advice = "; where it comes from, save its state_dict alone" if isinstance(error, pickle.UnpicklingError) else ""
        raise UserError(f"init_from.path: {path}: {explain_refusal(error)}{advice}") from None
    if not isinstance(content, dict):
        raise UserError(f"init_from.path: {path} holds a {type(content).__name__}, not weights by name")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError("init_from.path: .safetensors files need one more package: pip install safetensors") from None
    try:
        return dict(load_file(path))
    except Exception as error:
        raise UserError(f"init_from.path: {path} cannot be read as safetensors: {error}") from None


def _without_wrappers(name: str, own: Container[str]) -> str:
    """Drop what wrappers have put in front of a name; a model may also have a part that is called `module`."""
    while name not in own and name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _rename(weights: dict[str, torch.Tensor], prefixes: dict[str, str]) -> dict[str, torch.Tensor]:
    problems = []
    for old in prefixes:
        if not any(name.startswith(old) for name in weights):
            problems.append(f"init_from.rename: no name in the file begins with `{old}`; there are {list(weights)[:8]}")
    renamed: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        new = prefixes.get(old, "") + name.removeprefix(old)
        if new in renamed:
            problems.append(f"init_from.rename: gives the name `{new}` twice")
        renamed[new] = value
    if problems:
        raise ConfigError(problems)
    return renamed
