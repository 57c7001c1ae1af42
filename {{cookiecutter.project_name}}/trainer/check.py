"""Checks before training: those that cost nothing, and `--check`, which runs every part once."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from data_loaders.dataset import SeededDataset
from trainer.trainer import Trainer
from utils.device import all_finite, move
from utils.errors import UserError
from utils.seeding import random_state_kept


def check_first_batch(trainer: Trainer) -> Any:
    """Run the first training batch through model, loss and metrics, and leave no trace of it.

    Returns:
        The batch, on the host.

    Raises:
        UserError: the batch holds values that are not finite, or its parts do not fit each other.
    """
    loader = trainer.loaders.train
    with random_state_kept(), torch.no_grad():
        loader.set_position(0)
        indices = loader.batch_sampler.batch(0)
        batch = loader.load(indices)
        if not all_finite(batch):
            raise UserError(f"data_loader: samples {indices} hold values that are NaN or infinite")
        trainer.model.eval()
        result = trainer.evaluation_step(move(batch, trainer.device))
        trainer.metrics.values(result.output, result.targets)
    return batch
