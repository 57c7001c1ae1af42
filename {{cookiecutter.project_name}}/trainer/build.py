"""From a config to a trainer that is ready to run."""

import torch
from torch import nn

from data_loaders.loader import Loaders
from data_loaders.randomness import hash_counter
from trainer.starting_weights import set_starting_weights
from trainer.trainer import Trainer
from utils.config import Component, Config
from utils.config_rules import check_against_data
from utils.distributed import rank, world_size
from utils.errors import ConfigError
from utils.registry import arguments_with, build, find
from utils.seeding import seed_everything


def build_trainer(config: Config, starting_weights: bool = False) -> Trainer:
    """Build data, model and trainer; no file is written.

    Args:
        config: what to build.
        starting_weights: whether to give the model the weights that a new run starts from, by `init_from` and
            `init_weights`; one that goes on, or is evaluated, gets those of a checkpoint.

    Raises:
        UserError: the config does not fit the data, or the parts do not fit each other.
    """
    seed_everything(config.seed)
    loaders: Loaders = build("data_loader", config.data_loader, seed=config.seed)
    problems = _empty(loaders) or check_against_data(config, len(loaders.train), loaders.train.num_samples)
    if problems:
        raise ConfigError(problems)
    seed_everything(config.seed)  # again: building the data may have drawn, if only by importing a library
    model = build("model", config.model)
    give_statistics(model, loaders.statistics, config.model)
    if starting_weights:
        set_starting_weights(config, model)
    if world_size() > 1:
        for loader in (loaders.train, loaders.valid, loaders.test):
            loader.set_share(rank(), world_size())
        seed_everything(hash_counter(config.seed, rank()))  # the same weights everywhere, but not the same dropout
    trainer: Trainer = find("trainer", config.trainer.type)(config, model, loaders)
    if isinstance(trainer.loss.function, nn.Module):
        give_statistics(trainer.loss.function, loaders.statistics, config.loss)
    return trainer


def _empty(loaders: Loaders) -> list[str]:
    sizes = {"training": loaders.train.num_samples, "validation": loaders.valid.num_samples}
    return [f"data_loader: there are no samples for {split}" for split, size in sizes.items() if size == 0]


def give_statistics(module: nn.Module, statistics: dict[str, torch.Tensor], component: Component) -> None:
    """Fill the buffers of a model, or a loss, with the statistics of the training data that bear their names.

    They may lie in any part of it: `standardize.feature_mean` is filled with `feature_mean`. A model that keeps them
    takes its input, and returns its output, in the units of the data, and its checkpoint is all that a prediction
    needs.

    Raises:
        ConfigError: the model was built for data of another shape.
    """
    for name, buffer in module.named_buffers():
        value = statistics.get(name.rpartition(".")[2])
        if value is None:
            continue
        if buffer.shape != value.shape:
            raise ConfigError([_misfit(name, buffer, value, component)])
        buffer.copy_(value)


def _misfit(name: str, buffer: torch.Tensor, value: torch.Tensor, component: Component) -> str:
    """Say which argument of a model is likely to be wrong: one that has the number of what it keeps."""
    likely = arguments_with("model", component, buffer.numel()) if buffer.ndim == 1 else []
    fitting = f"model.args.{likely[0]}: found {buffer.numel()}, should be {value.numel()}" if likely else "model.args"
    shapes = f"{name} has shape {tuple(buffer.shape)}, and that of the training data {tuple(value.shape)}"
    return f"{fitting}: {shapes}"
