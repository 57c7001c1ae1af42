"""A training step that is taken once more, to see where it goes wrong."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from utils.device import move
from utils.errors import Diverged
from utils.layer_probe import LayerProbe
from utils.seeding import random_state_kept

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def replay(trainer: "Trainer", batch: Any, random: dict[str, Any]) -> str:
    """Take a training step again, with the random numbers that it had, and say where it went wrong.

    Args:
        trainer: with the weights from before the step.
        batch: what the step was about.
        random: the state of torch's generators before the step, as `torch_random` returned it.
    """
    with random_state_kept(), LayerProbe(trainer.model) as probe:
        if random:
            torch.set_rng_state(random["cpu"])
            if "cuda" in random and trainer.device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"], trainer.device)
        with suppress(Diverged):
            trainer.train_step(move(batch, trainer.device))
    place = probe.first_not_finite()
    if place:
        return f"the first value that is NaN or infinite arises {place}"
    return "the outputs of all modules and all gradients are finite: what is not is the loss"


def torch_random(device: torch.device) -> dict[str, Any]:
    """Return the state of the generators that a model draws from; this does not wait for the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state
