"""The weights that a new run starts from: other random values, or a trained network's.

Starting from weights is not resuming: the run begins in epoch 0, with a fresh optimizer.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from logger.console import log
from trainer.checkpoint import DamagedCheckpoint, load_checkpoint
from trainer.run_folder import CHECKPOINTS, find_checkpoint
from utils.config import Config, InitFrom, InitWeights
from utils.errors import ConfigError, UserError
from utils.patterns import idle_patterns, selected
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
    problems = [f"{path}.params.{number}: {text}" for number, text in idle_patterns(entry.params, parameters)]
    if problems:
        raise ConfigError(problems)
    function = find("init_weights", entry.type)
    for name, parameter in parameters.items():
        if selected(name, entry.params):
            try:
                function(parameter, **entry.args)
            except (ValueError, TypeError, RuntimeError) as error:
                raise ConfigError([f"{path}: {entry.type} cannot fill {name}: {error}"]) from error


def load_starting_weights(section: InitFrom, model: nn.Module) -> None:
    """Take over what fits by name and shape, and print what did and what did not.

    Raises:
        UserError: the file cannot be read, or nothing in it fits.
    """
    file, weights = read_weights(Path(section.path))
    renamed = {_rename(name, section.rename): value for name, value in weights.items()}
    own = model.state_dict()
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
        The file, and its weights under names without the prefixes of torch's wrappers.

    Raises:
        UserError: there is no such file, or no weights in it.
    """
    path = _file_of(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in _KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    weights = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not weights:
        raise UserError(f"init_from.path: {path} holds no weights: its keys are {list(content)[:10]}")
    return path, {_without_wrappers(name): value for name, value in weights.items()}


def _file_of(path: Path) -> Path:
    """Find the file: of a run's folder its best checkpoint, of a folder of runs that of the newest."""
    if not path.exists():
        raise UserError(f"init_from.path: there is no {path}")
    if not path.is_dir():
        return path
    runs = [path] if (path / CHECKPOINTS).is_dir() else sorted(path.glob(f"*/{CHECKPOINTS}"), reverse=True)
    for run in (entry if entry == path else entry.parent for entry in runs):
        best = run / CHECKPOINTS / "best.pth"
        return best if best.exists() else find_checkpoint(run)[0]
    raise UserError(f"init_from.path: {path} is neither a run's folder nor a folder of runs")


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        return load_checkpoint(path)
    except DamagedCheckpoint:
        pass  # not a checkpoint of this project: a file of another program, perhaps
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"init_from.path: {path} cannot be read as weights: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"init_from.path: {path} holds a {type(content).__name__}, not weights by name")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError('init_from.path: .safetensors files need one more package: pip install safetensors') from None
    try:
        return dict(load_file(path))
    except Exception as error:
        raise UserError(f"init_from.path: {path} cannot be read as safetensors: {error}") from None


def _without_wrappers(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def _rename(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
