"""How a run goes on from a checkpoint."""

import json
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from logger.console import log
from trainer.run_folder import set_aside
from utils.config import Config
from utils.distributed import is_main, like
from utils.errors import UserError

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def restore(trainer: "Trainer", state: dict[str, Any]) -> None:
    """Put a trainer, which has its run's folder, where a checkpoint was written.

    Checkpoints beyond it, of a course of training that is about to be replaced, are moved aside.

    Raises:
        UserError: the config differs in what a run cannot change half-way, or the model's weights do.
    """
    refuse_changes(state["config"], trainer.config)
    state = with_shards(state, {"training_model": trainer.model, **trainer.state})
    load_weights(trainer.model, state.get("training_model", state["model"]))
    if trainer.average:
        trainer.average.load_state_dict(state["model"])
    # First the checkpoints, then the logs (in `state`): the other way round, a kill in between would leave
    # checkpoints whose logs are gone.
    step = state["progress"]["step"]
    for moved in set_aside(trainer.saver.run_dir, step) if is_main() else []:
        log.info("%s is ahead of step %d: moved to %s", moved.name, step, moved.parent)
    for name, part in trainer.state.items():
        if name not in ("model", "training_model") and name in state:
            own = trainer.parallel.divided(part, state[name]) if isinstance(part, Optimizer) else state[name]
            part.load_state_dict(own)


def with_shards(state: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state with the tensors that lie in shards, divided among the processes as here.

    Args:
        state: of a checkpoint, which may have shards.
        parts: what is needed, by its name in the state, and what it is for.
    """
    filled: dict[str, Any] = state["shards"].fill(state, parts) if "shards" in state else state
    return filled


def refuse_changes(stored: dict[str, Any], config: Config) -> None:
    """Keep a run on its course: what is built from these sections was saved, and would not take a new value.

    Raises:
        UserError: a section that shapes the course of training is not what it was.
    """
    now = config.model_dump(mode="json", by_alias=True)
    changed = []
    for section in ("seed", "data_loader", "model", "loss", "optimizer", "lr_scheduler", "freeze", "unfreeze"):
        before, after = stored.get(section), now.get(section)
        if section == "data_loader":
            before, after = _without_workers(before), _without_workers(after)
        if before != after:
            changed.append(f"  {section}: was {json.dumps(before)}, is {json.dumps(after)}")
    if changed:
        raise UserError(
            "\n".join(["a run that goes on cannot change these parts of its config:", *changed])
            + "\nstart a new run for them; trainer, loggers, metrics and num_workers may change"
        )


def _without_workers(section: Any) -> Any:
    args = {name: value for name, value in section["args"].items() if name != "num_workers"}
    return {**section, "args": args}


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load a state dict that has to fit exactly.

    Raises:
        UserError: it does not; the message lists what is missing, superfluous or of another shape.
    """
    own = model.state_dict()
    problems = [f"missing: {name}" for name in own if name not in weights]
    problems += [f"superfluous: {name}" for name in weights if name not in own]
    problems += [
        f"of another shape: {name}: {tuple(weights[name].shape)}, and the model has {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        raise UserError("\n  ".join(["the checkpoint is of another model:", *problems]))
    model.load_state_dict({name: like(value, own[name]) for name, value in weights.items()})
