"""`train.py --overfit N`: learn N samples by heart.

Every network should manage that. If it does not, data, model, loss and optimizer do not work together, and a
long training would not either (A. Karpathy, "A Recipe for Training Neural Networks", 2019).
"""

from torch import nn

from logger.console import log
from trainer.trainer import Trainer
from utils.errors import RunFailed, UserError

MAX_STEPS = 1000
TARGET = 0.01  # of the first loss


def run(trainer: Trainer, samples: int) -> None:
    """Train on one batch until the loss is near zero.

    Raises:
        UserError: there is no batch of so many samples.
        RunFailed: the loss stays where it is.
        Diverged: it is not finite.
    """
    loader = trainer.loaders.train
    loader.set_position(0)
    indices = [index for number in range(len(loader)) for index in loader.batch_sampler.batch(number)]
    if not 1 <= samples <= len(indices):
        raise UserError(f"--overfit {samples}: there are 1 to {len(indices)} samples to take")
    batch = trainer.move(loader.load(indices[:samples]))
    stop_regularising(trainer)

    first = loss = 0.0
    for step in range(1, MAX_STEPS + 1):
        trainer.count(trainer.meter, *trainer.train_step(batch))
        trainer.guard.check(trainer.meter.flush())
        means = trainer.meter.window_means()
        loss = means["loss"]
        first = first or loss
        done = loss <= TARGET * first
        if done or step & (step - 1) == 0:  # the powers of two
            log.info("step %4d  %s", step, "  ".join(f"{name} {value:<9.4g}" for name, value in means.items()).rstrip())
        if done:
            log.info("learned %d samples by heart: data, model, loss and optimizer work together", samples)
            return
    raise RunFailed(
        f"could not learn {samples} samples by heart: in {MAX_STEPS} steps the loss went from {first:.4g} to "
        f"{loss:.4g}, and {TARGET:.0%} of the first was to be reached. What to look at:\n"
        "- the learning rate: --find-lr\n"
        "- samples and targets: do they belong together, are two samples the same and their targets not?\n"
        "- the model's last layer: can it reach every target? Is it frozen?\n"
        "- the loss: can it be 0 at all? With label smoothing, for one, it cannot"
    )


def stop_regularising(trainer: Trainer) -> None:
    """Take away what keeps a network from learning by heart: dropout and weight decay."""
    for module in trainer.model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # attention and recurrent layers
            setattr(module, "dropout", 0.0)  # noqa: B010 - a plain attribute, which nn.Module's types do not know
    for group in trainer.optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
