"""Checks before training: one batch at the start of every run, and `--check`, which runs every part once."""

import pickle
import re
import shutil
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from data_loaders.loader import Loader
from logger.console import few, log
from trainer.checkpoint import load_checkpoint
from trainer.criterion import refuse_numbers
from trainer.restoring import load_weights, with_shards
from trainer.run_folder import CHECKPOINTS, LAST
from trainer.saving import Saver
from trainer.summary import describe, layer_table, output_shapes
from trainer.trainer import Trainer
from utils.compiling import uncompiled
from utils.device import not_finite
from utils.distributed import from_main, gathered, is_main
from utils.errors import UserError
from utils.seeding import random_state_kept


def check_first_batch(trainer: Trainer) -> str:
    """Run the first training batch through model, loss and metrics, and leave no trace of it.

    Returns:
        A table of the model's layers.

    Raises:
        UserError: the batch holds values that are not finite, or its parts do not fit each other.
    """
    batch = load_first_batch(trainer.loaders.train)
    model = trainer.model
    with (
        random_state_kept(),
        torch.no_grad(),
        uncompiled(model),
        output_shapes(model) as shapes,
        warnings.catch_warnings(),
    ):
        trainer.model.eval()
        warnings.filterwarnings("ignore", "Using a target size")  # torch's; what is meant is refused, in our words
        try:
            result = trainer.evaluation_step(trainer.move(batch))
        except RuntimeError as error:
            if not re.search("channels|shapes cannot be multiplied", str(error)):
                raise
            name, found = trainer.config.model.type, str(error).splitlines()[0]
            raise UserError(f"model {name} is not built for a batch of shapes {describe(batch)}: {found}") from error
        refuse_numbers(trainer.config.loss.type, result.output, result.targets)
        trainer.metrics.try_out(trainer.precision.full(result.output), result.targets)
    return layer_table(trainer.model, shapes, trainer.optimizer.param_groups)


def load_first_batch(loader: Loader) -> Any:
    """Load the first batch of the first epoch.

    Raises:
        UserError: it holds values that are not finite.
    """
    with random_state_kept():
        loader.set_position(0)
        batch, samples = loader.load_batch(0)
    if bad := not_finite(batch, samples):
        raise UserError(f"data_loader: there are values that are NaN or infinite, in the samples {few(bad)}")
    return batch


def check(trainer: Trainer) -> None:
    """Run every part of a training once, in a temporary place, and report what was found.

    Raises:
        UserError: something does not fit.
    """
    loaders, model, device = trainer.loaders, trainer.model, trainer.device
    for split, loader in (("train", loaders.train), ("val", loaders.valid), ("test", loaders.test)):
        log.info("%-5s %d samples in %d batches", split, loader.num_samples, len(loader))
    batch = load_first_batch(loaders.train)
    check_workers(loaders.train)

    log.info("on %s", device)
    log.info(check_first_batch(trainer))
    trainer.freezing.train_mode()
    start = time.perf_counter()
    results = trainer.train_step(trainer.move(batch))
    trainer.count(trainer.meter, *results)
    result = results[0]
    loss = trainer.meter.means()["loss"]
    seconds = time.perf_counter() - start
    log.info("batch %s, output %s, targets %s", describe(batch), describe(result.output), describe(result.targets))
    log.info("one training step: loss %.4g, %.1f ms, the first and slowest", loss, 1e3 * seconds)
    if device.type == "cuda":
        log.info("memory on the device: %.0f MB at most", torch.cuda.max_memory_allocated(device) / 1e6)

    model.eval()
    with torch.no_grad():
        trainer.evaluation_step(trainer.move(load_first_batch(loaders.valid)))
    log.info("one evaluation step: done")
    check_saving(trainer)


def check_workers(loader: Loader) -> None:
    """See that the dataset can travel to worker processes, where the system starts them afresh.

    Raises:
        UserError: it cannot.
    """
    if loader.num_workers == 0:
        return
    try:
        pickle.dumps(loader.dataset)
    except Exception as error:
        raise UserError(
            f"data_loader: the dataset cannot be pickled, which workers need on macOS and Windows: {error}"
        ) from error


def check_saving(trainer: Trainer) -> None:
    """Save a checkpoint in a temporary folder and load it again; compare its size with the free space.

    Raises:
        UserError: what was loaded is not what was saved, or the disk has no room for it.
    """
    settings = trainer.config.trainer
    place = Path(settings.save_dir).absolute()
    while not place.exists():
        place = place.parent
    with ExitStack() as stack:
        # Where the run would write: other machines, if they take part, see that too.
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix=".check-", dir=place)) if is_main() else ""
        file = Path(from_main(own)) / CHECKPOINTS / LAST
        file.parent.mkdir(exist_ok=True)
        Saver(trainer, file.parent.parent).save(LAST)
        gathered(None)  # until all are here, and the file too
        size = sum(path.stat().st_size for path in file.parent.rglob("*"))
        state = with_shards(load_checkpoint(file, whole=False), {"model": trainer.model})
        load_weights(trainer.model, state["model"])
        gathered(None)  # and until all have read it
    free = shutil.disk_usage(place).free
    needed = size * (3 + settings.keep_last)
    log.info(
        "a checkpoint: %.1f MB; a run keeps up to %.1f MB, %.0f MB are free",
        size / 1e6,
        needed / 1e6,
        free / 1e6,
    )
    if needed > free:
        raise UserError(f"trainer.save_dir: {place} has no room for this run's checkpoints")
