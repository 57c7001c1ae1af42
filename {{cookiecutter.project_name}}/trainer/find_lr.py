"""`train.py --find-lr`: raise the learning rate step by step, and see what the loss does.

L. Smith, "Cyclical Learning Rates for Training Neural Networks", 2015: the rate at which the loss falls fastest
is a good one, and where it rises again is too much.
"""

import math
from itertools import islice
from pathlib import Path

from logger.console import log
from trainer.trainer import Trainer
from trainer.trials import endless
from utils.errors import Diverged, RunFailed

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 240
SMOOTHING = 0.9
WINDOW = STEPS // 16  # half a power of ten


def run(trainer: Trainer, _chosen: bool) -> None:
    """Try the rates, draw the loss, and print a suggestion.

    Raises:
        RunFailed: the loss is not finite from the start.
    """
    rates, losses = try_rates(trainer)
    if len(losses) <= 3 * WINDOW:
        raise RunFailed("the loss is not finite even at the smallest learning rates: see --check and --overfit")
    smallest, suggested = read_curve(rates, losses)
    settings = trainer.config.trainer
    file = Path(settings.save_dir) / f"{trainer.config.name}-find_lr.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    draw(rates, losses, suggested, file)
    log.info("the loss falls fastest at %.2g and is smallest at %.2g; the picture: %s", suggested, smallest, file)
    log.info("a good first try, with a schedule that falls from there: optimizer.args.lr=%.1e", suggested)
    if len(trainer.optimizer.param_groups) > 1:
        log.info("these are rates of the first parameter group; the others kept their ratio to it")


def try_rates(trainer: Trainer) -> tuple[list[float], list[float]]:
    """Take a training step at each rate until the loss leaves its range; return rates and smoothed losses."""
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    groups = trainer.optimizer.param_groups
    ratios = [float(group["lr"]) / float(groups[0]["lr"]) for group in groups]
    for number, batch in enumerate(islice(endless(trainer.loaders.train), STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        for group, ratio in zip(groups, ratios, strict=True):
            group["lr"] = rate * ratio
        try:
            trainer.count(trainer.meter, *trainer.train_step(trainer.move(batch)))
        except Diverged:
            break
        loss = trainer.meter.window_means()["loss"]
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(mean / (1 - SMOOTHING ** (number + 1)))
        if losses[-1] - min(losses) > 2 * (losses[0] - min(losses)) + 0.5 * abs(losses[0]):
            break
    return rates, losses


def read_curve(rates: list[float], losses: list[float]) -> tuple[float, float]:
    """Return the rates at which the loss is smallest, and before that falls fastest over half a power of ten.

    The first entries do not count: their means are of few losses, and so jump.
    """
    lowest = max(losses.index(min(losses)), 3 * WINDOW)
    falls = {i: losses[i + WINDOW] - losses[i] for i in range(2 * WINDOW, lowest - WINDOW + 1)}
    return rates[lowest], rates[min(falls, key=lambda i: falls[i]) + WINDOW // 2]


def draw(rates: list[float], losses: list[float], suggested: float, file: Path) -> None:
    """Draw the loss over the learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.add_subplot()
    axis.plot(rates, losses)
    axis.axvline(suggested, color="grey", linestyle=":", label=f"falls fastest: {suggested:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", title="learning-rate range test")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, dpi=120)
